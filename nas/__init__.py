"""Search and retraining of bimodal fusion networks over cached features. Tensors in, plain objects out.

A name is imported when it is first asked for: settings and genotypes need no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.config import RetrainConfig, SearchConfig, batch_key
    from nas.failures import Diverged, RunError, VanishingArchitectureGradient
    from nas.genotype import Cell, Genotype, Step
    from nas.network import CompactNetwork
    from nas.searching import SearchResult, search
    from nas.training import RetrainResult, retrain

__all__ = [
    "Cell",
    "CompactNetwork",
    "Diverged",
    "Genotype",
    "RetrainConfig",
    "RetrainResult",
    "RunError",
    "SearchConfig",
    "SearchResult",
    "Step",
    "VanishingArchitectureGradient",
    "batch_key",
    "retrain",
    "search",
]

_PLACES = {
    "config": ("RetrainConfig", "SearchConfig", "batch_key"),
    "failures": ("Diverged", "RunError", "VanishingArchitectureGradient"),
    "genotype": ("Cell", "Genotype", "Step"),
    "network": ("CompactNetwork",),
    "searching": ("SearchResult", "search"),
    "training": ("RetrainResult", "retrain"),
}


def __getattr__(name: str) -> Any:
    for module, names in _PLACES.items():
        if name in names:
            found = getattr(importlib.import_module(f"nas.{module}"), name)
            globals()[name] = found
            return found
    raise AttributeError(f"nas has no {name!r}; it has {', '.join(__all__)}")
