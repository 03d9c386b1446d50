"""A backbone of one's own: `name: module:attribute` imports a callable (modality, params) -> Backbone."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from cache_schemas.files import file_sha256
from pipeline.backbones.base import Backbone
from pipeline.backbones.words import BackboneError, Modality
from pipeline.params import BackboneParams


def build(modality: Modality, params: BackboneParams) -> Backbone:
    """What the callable returns; raises BackboneError when it cannot be imported or returns something else."""
    module, _, attribute = params.name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # a file beside params.yaml; the `bmnas` command's own path is elsewhere
    try:
        imported = importlib.import_module(module)
        builder = getattr(imported, attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise BackboneError(
            f"backbone {params.name}: {error}. A name is one that `bmnas backbones` lists, onnx:PATH#tap,tap or your "
            "own module:attribute"
        ) from error
    backbone = builder(modality, params)
    if not isinstance(backbone, Backbone):
        raise BackboneError(
            f"backbone {params.name}: returned {type(backbone).__name__}; it must be a subclass of "
            "pipeline.backbones.Backbone"
        )
    if imported.__file__ is not None:
        backbone.source_sha256 = file_sha256(Path(imported.__file__))
    return backbone
