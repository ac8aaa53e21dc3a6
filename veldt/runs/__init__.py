"""What a run leaves behind: its folder, checkpoints, metrics table, best policy and learning curve.

Nothing in this package pickles, and nothing it reads can execute code.
"""
