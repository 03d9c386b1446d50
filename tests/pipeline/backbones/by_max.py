"""Backbones whose layers are kept by their maximum alone: as many channels as the network has, and easy references."""

from typing import Any

from pipeline.params import BackboneParams


def by_max(**given: Any) -> BackboneParams:
    """Parameters of one, `pool: [max]` unless something else is asked for."""
    return BackboneParams(**{"pool": ("max",)} | given)
