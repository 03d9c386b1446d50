"""What is said of backbones, by those, too, who run none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Modality = Literal["visual", "audio"]
Input = Literal["crops", "spectrogram", "waveform"]


class BackboneError(ValueError):
    """A backbone cannot be built or used; the message names it, what is wrong, and the way out."""


def bare_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity without what those in older caches say besides: where weights came from, which layers were kept."""
    return {name: value for name, value in identity.items() if name not in ("weights", "layers")}
