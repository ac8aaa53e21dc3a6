"""Before any test: one thread for the arithmetic, here and in the processes that tests start.

What tests compute is small. A second thread gains nothing there, and costs much where several processes share the cores, since
threads that wait for each other spin.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
