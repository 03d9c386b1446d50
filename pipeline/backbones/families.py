"""Which family builds a backbone: FAMILIES maps what stands before the colon in `name` to its builder.

NAMED has those without a colon that are not timm's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

from pipeline.backbones import (
    distillmos_family,
    facenet_family,
    inflated,
    onnx_family,
    own,
    smart_turn,
    timm_family,
    torchaudio_family,
    torchvision_family,
    transformers_family,
)
from pipeline.backbones.base import Backbone
from pipeline.backbones.words import Modality
from pipeline.params import BackboneParams

Builder = Callable[[Modality, BackboneParams], Backbone]
FAMILIES: Mapping[str, Builder] = {
    "": timm_family.build,
    "hf-hub": timm_family.build,  # timm's own prefixes
    "local-dir": timm_family.build,
    "torchvision": torchvision_family.build,
    "facenet": facenet_family.build,
    "torchaudio": torchaudio_family.build,
    "transformers": transformers_family.build,
    "inflated": inflated.build,
    "onnx": onnx_family.build,
}
"""{prefix of the name: builder}; any other prefix is a module of one's own."""
NAMED: Mapping[str, Builder] = {distillmos_family.NAME: distillmos_family.build, smart_turn.NAME: smart_turn.build}


@functools.lru_cache(maxsize=8)
def load_backbone(modality: Modality, params: BackboneParams, device: str) -> Backbone:
    """The backbone on the device, once per process; raises BackboneError when it cannot be built."""
    prefix, colon, _ = params.name.partition(":")
    builder = NAMED.get(params.name) or FAMILIES.get(prefix if colon else "", own.build)
    return builder(modality, params).to(device)
