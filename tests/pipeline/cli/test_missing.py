"""What is said where a package is not installed: which extra brings it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BUNDLES = ROOT / "tests" / "pipeline" / "detector" / "data"
CODE = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnxruntime"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from pipeline.cli import main
main()
"""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["search"],
            "this command needs torch, which is not installed: install bmnas with its extra `train` (docs/install.md)",
        ),
        (
            ["predict", "a.mp4", "--bundle", str(BUNDLES / "format-1.bmnas")],
            "this detector needs torch, which is not installed: install bmnas with its extra `train` "
            "(docs/install.md), or ask whoever made it for one that needs no torch (`bmnas bundle --onnx`)",
        ),
        (
            ["predict", "a.mp4", "--bundle", str(BUNDLES / "format-2.bmnas")],
            "this detector needs onnxruntime, which is not installed: install bmnas with its extra `predict` "
            "(docs/install.md)",
        ),
    ],
)
def test_a_missing_package_is_named_with_its_extra(arguments: list[str], said: str) -> None:
    command = [sys.executable, "-c", CODE, *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.endswith(f"error: {said}\n")
