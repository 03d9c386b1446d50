"""Stage `manifest`: what clips there are, their labels and splits; and what to know before they are used."""

from pipeline.manifest.build import build_manifest
from pipeline.manifest.splits import assign_splits, identity_components

__all__ = ["assign_splits", "build_manifest", "identity_components"]
