"""What this machine has, in plain JSON types."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pipeline import media
from pipeline.compute.machine import cores, device_of, free_bytes
from pipeline.params import ComputeParams

_PACKAGES = (
    "bmnas", "torch", "torchaudio", "torchvision", "facenet-pytorch", "av", "ffmpeg-python", "h5py", "zarr", "dask",
    "distributed", "dvc", "timm", "onnxruntime",
)  # fmt: skip


def examine() -> dict[str, Any]:
    """{wall: as `media.isolation` finds it, machine: ..., packages: {name: version or "not installed"}}."""
    compute = ComputeParams()
    device = device_of(compute)
    return {
        "wall": asdict(media.isolation()),
        "machine": {
            "system": platform.platform(),
            "python": platform.python_version(),
            "user": "root" if hasattr(os, "geteuid") and os.geteuid() == 0 else "not root",
            "cores": cores(),
            "free_memory": f"{free_bytes(ComputeParams(device='cpu')) / 2**30:.1f} GiB",
            "device": device if device == "cpu" else f"{device}, {free_bytes(compute) / 2**30:.1f} GiB free",
            "ffmpeg_that_writes_clips": media.ffmpeg_exe(),
        },
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
