"""Set before torch is imported: see pipeline/cli.py. One thread: the suite runs in two processes."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")
