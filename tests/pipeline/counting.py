"""Backbones of one's own (`tests.pipeline.counting:small`) that are fast and write down every window they compute."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike

from pipeline.backbones import Backbone, Modality, choose_stages
from pipeline.params import BackboneParams

LOG = "BMNAS_TEST_COUNTS"
"""The environment variable that names the file, a line a window: modality, name, digest of the pixels."""
PIXELS = 64


class _Counting(Backbone):
    """Features are fixed random projections of every point in time."""

    def __init__(
        self, modality: Modality, params: BackboneParams, channels: Sequence[int], kept: Sequence[int]
    ) -> None:
        """channels: of all layers; kept: the numbers of those that are given."""
        source = torch.Generator().manual_seed(int(params.weights.partition(":")[2]))
        net = torch.nn.ParameterList([torch.randn(PIXELS, c, generator=source) for c in channels])
        takes = "crops" if modality == "visual" else "spectrogram"
        stages = [(str(i), channels[i]) for i in kept]
        super().__init__(modality, params, net, input=takes, stages=stages, transform="none")  # type: ignore[arg-type]
        self._kept = kept

    def maps(self, windows: torch.Tensor) -> list[torch.Tensor]:
        for window in windows:
            log(self.modality, self.name, window)
        over_time = windows if self.input == "crops" else windows.transpose(1, 2)
        pixels = over_time.flatten(2)[:, :, :PIXELS].float() / 256
        return [(pixels @ weights).transpose(1, 2) for i, weights in enumerate(self.net) if i in self._kept]


def small(modality: Modality, params: BackboneParams) -> Backbone:
    """Two layers of a few channels."""
    return _Counting(modality, params, (3, 5), (0, 1))


def other(modality: Modality, params: BackboneParams) -> Backbone:
    """Another network of that size."""
    return _Counting(modality, params, (2, 4), (0, 1))


def wide(modality: Modality, params: BackboneParams) -> Backbone:
    """As many channels as a real network, so that writing takes its time."""
    return _Counting(modality, params, (64, 128, 256, 512), range(4))


def tall(modality: Modality, params: BackboneParams) -> Backbone:
    """Three layers, of which `layers` chooses."""
    return _Counting(modality, params, (2, 3, 4), choose_stages(params, 3))


class _Bursting(_Counting):
    """Gives infinity in its second layer for some windows."""

    def maps(self, windows: torch.Tensor) -> list[torch.Tensor]:
        first, second = super().maps(windows)
        for i, window in enumerate(windows):
            if int(digest_of(window)[:4], 16) % 6 == 0:
                second[i, 0, 0] = torch.inf
        return [first, second]


def bursting(modality: Modality, params: BackboneParams) -> Backbone:
    """As small, but about every sixth window is one whose features are not finite."""
    return _Bursting(modality, params, (3, 5), (0, 1))


def fragile(modality: Modality, params: BackboneParams) -> Backbone:
    """As small, and bursting with the weights that the control has."""
    return (_Bursting if params.weights == "seed:0" else _Counting)(modality, params, (3, 5), (0, 1))


def deaf(modality: Modality, params: BackboneParams) -> Backbone:
    """As small, with weights of its own whatever it is asked for."""
    return _Counting(modality, params.model_copy(update={"weights": "seed:7"}), (3, 5), (0, 1))


def log(modality: str, name: str, window: ArrayLike) -> None:
    """Appends a line in one write: several processes share the file."""
    line = f"{modality} {name} {digest_of(window)}\n"
    handle = os.open(os.environ[LOG], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, line.encode())
    os.close(handle)


def digest_of(window: ArrayLike) -> str:
    """Names a window's pixels."""
    return hashlib.sha1(np.ascontiguousarray(window).tobytes(), usedforsecurity=False).hexdigest()


def logged(path: Path) -> list[tuple[str, str, str]]:
    """(modality, name, digest) of every window computed so far."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [(modality, name, digest) for modality, name, digest in (line.split() for line in lines)]
