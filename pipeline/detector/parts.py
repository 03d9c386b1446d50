"""What a detector computes with, whatever computes it: torch, or onnxruntime where a bundle brings graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cache_schemas.run import NetworkName, RetrainRun
from pipeline.faces.mtcnn import Networks
from pipeline.features.forward import Frozen
from pipeline.params import Params
from pipeline.sound.clip import Spectrograms
from pipeline.workspace import Workspace

Scores: TypeAlias = Callable[[Mapping[str, NDArray[Any]]], NDArray[np.float64]]
"""{layer: (windows, L, C_in)} -> P(fake) of each window."""


@dataclass(frozen=True)
class Parts:
    """They are shared by threads."""

    backbones: Sequence[Frozen]
    faces: Networks
    spectrogram: Spectrograms
    networks: Sequence[tuple[NetworkName, Scores]]
    """In the order of the run's entries."""


class MissingPackageError(ImportError):
    """A detector needs a package that is not installed; the message says which, and how to get it."""


def load_parts(workspace: Workspace, run: RetrainRun, params: Params) -> Parts:
    """By onnxruntime where there are graphs, else by torch; raises MissingPackageError, or DetectorError where the
    backbones are others today.
    """
    try:
        if workspace.graphs.is_dir():
            from pipeline.detector.by_onnx import onnx_parts  # noqa: PLC0415 - each is an extra

            return onnx_parts(workspace, run, params)
        from pipeline.detector.by_torch import torch_parts  # noqa: PLC0415

        return torch_parts(workspace, run, params)
    except ModuleNotFoundError as error:
        raise _missing_package(error, workspace) from error


def _missing_package(error: ModuleNotFoundError, workspace: Workspace) -> MissingPackageError:
    """What to say of it."""
    graphs = workspace.graphs.is_dir()
    way_out = f"install bmnas with its extra `{'predict' if graphs else 'train'}` (docs/install.md)"
    if not graphs:
        way_out += ", or ask whoever made it for one that needs no torch (`bmnas bundle --onnx`)"
    return MissingPackageError(f"this detector needs {error.name}, which is not installed: {way_out}")
