"""Frozen backbones: networks that give one feature map per stage, pooled without parameters to (L, C_in).

One module per family. A name is imported when it is first asked for: words and errors need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pipeline.backbones.words import BackboneError, Input, Modality, bare_identity

if TYPE_CHECKING:
    from pipeline.backbones.base import WAVEFORM_HZ, Backbone, choose_stages, pool
    from pipeline.backbones.families import FAMILIES, NAMED, load_backbone
    from pipeline.backbones.weights import files_of, moved, resolved

__all__ = [
    "FAMILIES", "NAMED", "WAVEFORM_HZ", "Backbone", "BackboneError", "Input", "Modality", "bare_identity",
    "choose_stages", "files_of", "load_backbone", "moved", "pool", "resolved",
]  # fmt: skip

_PLACES = {
    "base": ("WAVEFORM_HZ", "Backbone", "choose_stages", "pool"),
    "families": ("FAMILIES", "NAMED", "load_backbone"),
    "weights": ("files_of", "moved", "resolved"),
}


def __getattr__(name: str) -> Any:
    for module, names in _PLACES.items():
        if name in names:
            found = getattr(importlib.import_module(f"pipeline.backbones.{module}"), name)
            globals()[name] = found
            return found
    raise AttributeError(f"pipeline.backbones has no {name!r}; it has {', '.join(__all__)}")
