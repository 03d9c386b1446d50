"""What this machine has, in plain JSON types."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
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
    return {
        "wall": asdict(media.isolation()),
        "machine": {
            "system": platform.platform(),
            "python": platform.python_version(),
            "user": "root" if hasattr(os, "geteuid") and os.geteuid() == 0 else "not root",
            "cores": cores(),
            "free_memory": _known(lambda: _free(ComputeParams(device="cpu"))),
            "device": _known(_device),
            "ffmpeg_that_writes_clips": _known(lambda: media.ffmpeg_exe()),  # noqa: PLW0108 - its module, too, needs a package
        },
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _known(measure: Callable[[], str]) -> str:
    """What it gives, or which package that needs."""
    try:
        return measure()
    except ModuleNotFoundError as error:
        return f"not known: {error.name} is not installed"


def _device() -> str:
    compute = ComputeParams()
    device = device_of(compute)
    return device if device == "cpu" else f"{device}, {_free(compute)} free"


def _free(compute: ComputeParams) -> str:
    return f"{free_bytes(compute) / 2**30:.1f} GiB"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
