"""Demonstrations: episodes that somebody else played, kept as Minari datasets, recorded and read back exactly.

| file | what it does |
| --- | --- |
| `datasets.py` | opens a Minari dataset and checks every episode; refuses what is damaged, empty or of another environment |
| `table.py` | reads one into a table that is never written to again |
| `recording.py` | plays episodes of an environment and writes them, one by one |
| `demonstrators.py` | who plays: a scripted expert, BabyAI's bot |
| `keyboard.py` | who plays: a person |

Minari is imported only when a dataset is opened or written; it is the extra `minari`.
"""
