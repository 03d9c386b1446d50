"""The feature cache: computed once, content-addressed, checked at every read. docs/cache.md tells how and why."""

from cache_schemas.features.layout import (
    INDEX_COLUMNS,
    Control,
    FeatureCacheError,
    Geometry,
    IndexAttributes,
    VariantAttributes,
)
from cache_schemas.features.reader import FeatureCache
from cache_schemas.features.staging import stage_piece, staged_piece
from cache_schemas.features.writer import FeatureCacheWriter

__all__ = [
    "INDEX_COLUMNS",
    "Control",
    "FeatureCache",
    "FeatureCacheError",
    "FeatureCacheWriter",
    "Geometry",
    "IndexAttributes",
    "VariantAttributes",
    "stage_piece",
    "staged_piece",
]
