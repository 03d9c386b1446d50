"""Evaluation of whole splits."""

import torch
from torch import Tensor

from nas.data import Dataset
from nas.layers import EVALUATION, Pass
from nas.network import FusionNetwork
from nas.space import Mix

EVALUATION_ROWS = 256


@torch.no_grad()
def evaluate(network: FusionNetwork, mix: Mix, data: Dataset, rows: Tensor, how: Pass = EVALUATION) -> Tensor:
    """Return logits (R, n, 2) of rows (n,), by default in evaluation mode: stored statistics, no dropout."""
    parts = torch.split(rows, EVALUATION_ROWS)
    layers = network.candidates.layers
    return torch.cat([network(data.gather(part[None], layers), mix, how) for part in parts], dim=1)
