"""What the process of `bmnas predict` loads: the media, the backbones and the networks, and nothing of caches."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
FOREIGN = {"dask", "distributed", "h5py", "jinja2", "matplotlib", "pandas", "scipy", "sklearn", "zarr"}
CODE = """
import json, sys
import pipeline.cli, pipeline.detector.inputs, pipeline.detector.opened, pipeline.detector.predict
print(json.dumps(list(sys.modules)))
"""


def test_predict_loads_nothing_that_only_caches_and_tables_need() -> None:
    said = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert not set(json.loads(said)) & FOREIGN
