"""What a search's process loads: neither media nor backbones, and nothing that the first step does not need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
FOREIGN = {
    "av", "facenet_pytorch", "timm", "torchvision", "torchaudio", "transformers", "h5py", "onnxruntime", "onnx",
    "distillmos",
}  # fmt: skip
LATER = {"dask", "distributed", "sklearn", "scipy", "matplotlib", "jinja2", "triton", "torch._dynamo"}
CODE = """
import importlib, json, sys
from pipeline import cli
import pipeline.runs.search
from nas.cost import operation_cost
operation_cost("ConcatFC", 8, 4)  # every search asks
first = list(sys.modules)
for name in ("runs.retrain", "runs.evaluate", "runs.genotypes", "experiments.sweep", "experiments.oracle",
             "experiments.certificates", "experiments.baselines", "controls.probes"):
    importlib.import_module(f"pipeline.{name}")
print(json.dumps([first, list(sys.modules)]))
"""


def test_searches_load_neither_media_nor_backbones_and_begin_with_little() -> None:
    said = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    of_search, of_all = (set(names) for names in json.loads(said))
    assert not of_search & (FOREIGN | LATER)
    assert not of_all & FOREIGN
