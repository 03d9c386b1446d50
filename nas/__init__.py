"""Search and retraining of bimodal fusion networks over cached features. Tensors in, plain objects out."""

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
