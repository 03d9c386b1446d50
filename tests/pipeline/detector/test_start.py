"""What the process of `bmnas predict` loads: the media, and nothing of caches; torch only where torch computes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
FOREIGN = {
    "dask", "distributed", "facenet_pytorch", "ffmpeg", "h5py", "imageio_ffmpeg", "jinja2", "matplotlib", "pandas",
    "scipy", "sklearn", "timm", "torch", "torchaudio", "torchvision", "zarr",
}  # fmt: skip
CODE = """
import json, sys
import pipeline.cli, pipeline.detector.inputs, pipeline.detector.opened, pipeline.detector.predict
print(json.dumps(list(sys.modules)))
"""


def test_predict_loads_nothing_that_only_caches_tables_and_torch_need() -> None:
    said = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert not set(json.loads(said)) & FOREIGN
