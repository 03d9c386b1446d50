"""The feature cache: computed once, content-addressed, checked at every read. docs/cache.md tells how and why."""

from cache_schemas.features.layout import (
    INDEX_COLUMNS,
    FeatureCacheError,
    IndexAttributes,
    VariantAttributes,
)
from cache_schemas.features.reader import FeatureCache
from cache_schemas.features.writer import FeatureCacheWriter, stage_piece, staged_piece

__all__ = [
    "INDEX_COLUMNS",
    "FeatureCache",
    "FeatureCacheError",
    "FeatureCacheWriter",
    "IndexAttributes",
    "VariantAttributes",
    "stage_piece",
    "staged_piece",
]
