"""Set before torch is imported: see pipeline/cli.py."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
