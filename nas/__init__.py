"""Search and retraining of bimodal fusion networks over cached features. Tensors in, plain objects out."""

from nas.config import RetrainConfig, SearchConfig, batch_key
from nas.genotype import Cell, Genotype, Step
from nas.network import CompactNetwork
from nas.retrain import RetrainResult, retrain
from nas.search import SearchResult, VanishingArchitectureGradient, search

__all__ = [
    "Cell",
    "CompactNetwork",
    "Genotype",
    "RetrainConfig",
    "RetrainResult",
    "SearchConfig",
    "SearchResult",
    "Step",
    "VanishingArchitectureGradient",
    "batch_key",
    "retrain",
    "search",
]
