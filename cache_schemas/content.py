"""What a feature cache holds, named by content: work/features.json, on which everything behind the cache depends, and
work/control.json, on which what stands beside its results depends.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from cache_schemas.features import FeatureCache
from cache_schemas.files import write_text

CONTENT_COLUMNS = ("label", "video_label", "audio_label", "split")
"""What of the index searches, trainings and their measures are made of."""


def cache_identity(cache: FeatureCache) -> str:
    """32 hex digits that name what a cache holds: the keys of its rows in index order, views, layers, labels, split.

    Two caches of one identity give the same results, however their rows came to lie where they lie, and whatever else
    lies beside them. What only tables show (people, methods, paths) is not part of it.
    """
    sha = hashlib.sha256(json.dumps([cache.views, list(cache.layers.items())]).encode())
    for name in CONTENT_COLUMNS:
        sha.update(f"\0{name}\0{','.join(map(str, cache.column(name)))}".encode())
    for variant in cache.variants:
        sha.update(cache.row_keys(variant).tobytes())
    return sha.hexdigest()[:32]


class CacheContent(BaseModel, extra="forbid", frozen=True):
    """work/features.json: the same bytes whenever the cache holds the same again. No versions, no times, no paths."""

    schema_name: Literal["bmnas.features.content"] = "bmnas.features.content"
    schema_version: Literal[1] = 1
    identity: str
    windows: int
    views: int
    layers: dict[str, int]
    """{layer: C_in}"""
    backbones: dict[str, dict[str, Any]]
    """{modality/name: its identity}"""

    @classmethod
    def of(cls, cache: FeatureCache) -> CacheContent:
        """That of a cache."""
        return cls(
            identity=cache_identity(cache),
            windows=len(cache),
            views=cache.views,
            layers=cache.layers,
            backbones={f"{variant.modality}/{variant.name}": variant.backbone for variant in cache.variants},
        )

    def write(self, path: Path) -> None:
        """Replaces `path`."""
        write_text(path, self.model_dump_json(indent=1) + "\n")


class ControlContent(BaseModel, extra="forbid", frozen=True):
    """work/control.json: the identity of the features of random weights, or why there are none."""

    schema_name: Literal["bmnas.features.control"] = "bmnas.features.control"
    schema_version: Literal[1] = 1
    identity: str = ""
    reason: str = ""

    @classmethod
    def of(cls, cache: FeatureCache) -> ControlContent:
        """That of a cache."""
        control = cache.control()
        return cls(reason=cache.no_control) if control is None else cls(identity=cache_identity(control))

    def write(self, path: Path) -> None:
        """Replaces `path`."""
        write_text(path, self.model_dump_json(indent=1) + "\n")
