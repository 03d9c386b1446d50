"""Which files of one's own DVC must know: weights and modules that params.yaml names for backbones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from cache_schemas.files import file_sha256

ROOT = Path(__file__).parents[3]
PARAMS = """
pretrain: {visual: {name: resnet18, weights: "file:start.pth"}, audio: null}
features:
  visual:
    - {name: "mine.nets:build", weights: "seed:0"}
    - {name: resnet18, weights: "file:work/pretrain/visual.safetensors"}
  audio:
    - {name: "hf-hub:timm/resnet18", weights: "file:weights/gone.safetensors"}
    - {name: resnet34, layers: 3}
"""


def run(folder: Path) -> dict[str, dict[str, str]]:
    """{stage: {name: digest}} of the command in a folder."""
    code = "import sys; from pipeline.features.own_files import main; main(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)})
    return {path.stem: json.loads(path.read_text()) for path in (folder / "work" / "own_files").iterdir()}


def test_every_file_of_ones_own_is_followed_but_those_that_a_stage_writes(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "start.pth").write_text("tensors")
    (tmp_path / "mine").mkdir()
    module = tmp_path / "mine" / "nets.py"
    module.write_text("raise RuntimeError('nobody imports it')")
    found = run(tmp_path)
    assert found["pretrain"] == {"start.pth": file_sha256(tmp_path / "start.pth")}
    assert found["features"] == {"mine.nets": file_sha256(module), "weights/gone.safetensors": "missing"}
    module.write_text("changed")
    assert run(tmp_path)["features"]["mine.nets"] == file_sha256(module) != found["features"]["mine.nets"]


def test_networks_in_files_and_folders_are_followed(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(
        "features: {visual: [{name: 'onnx:nets/a.onnx#tap'}], audio: [{name: 'transformers:./nets/ear'}]}"
    )
    ear = tmp_path / "nets" / "ear"
    ear.mkdir(parents=True)
    (tmp_path / "nets" / "a.onnx").write_text("a graph")
    files = [ear / name for name in ("config.json", "model.safetensors", "preprocessor_config.json")]
    for path in files:
        path.write_text(path.name)
    (ear / "README.md").write_text("nobody reads it")
    found = run(tmp_path)["features"]
    expected = {f"nets/ear/{path.name}": file_sha256(path) for path in files}
    assert found == expected | {"nets/a.onnx": file_sha256(tmp_path / "nets" / "a.onnx")}


def test_a_project_without_files_of_its_own_has_none(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    assert run(tmp_path) == {"pretrain": {}, "features": {}}
