"""Architectures judged by the shared weights of one search, as the search judges them: val AUC, nothing trained."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nas.data import Dataset, prepare
from nas.genotype import Genotype
from nas.layers import Pass
from nas.metrics import area_under_roc
from nas.network import FixedNetwork
from nas.training import EVALUATION_ROWS

TOGETHER = 32


def shared_scores(
    features: Mapping[str, Tensor],
    labels: Any,
    split: Sequence[str],
    genotypes: Sequence[Genotype],
    weights: Mapping[str, Tensor],
    *,
    device: str | None = None,
) -> Tensor:
    """Return the AUC on val (n,) of n genotypes under one run's weights {name: (1, ...)} (SearchResult.weights).

    features, labels, split: as for `nas.search`.
    """
    data = prepare(features, labels, split, device, reads="train_val")
    on_device = {name: value.to(data.device) for name, value in weights.items()}
    return val_scores(data, genotypes, on_device).cpu()


@torch.no_grad()
def val_scores(data: Dataset, genotypes: Sequence[Genotype], weights: Mapping[str, Tensor]) -> Tensor:
    """Return the AUC on val (n,) of n genotypes under one run's weights {name: (1, ...)}, both on the data's device.

    Batch norms use the statistics of the rows scored: the stored ones belong to mixtures of architectures.
    """
    found = []
    for start in range(0, len(genotypes), TOGETHER):
        network = FixedNetwork.share(genotypes[start : start + TOGETHER], weights, data.in_channels)
        parts = [
            network(data.gather(part[None], tuple(network.readers)), Pass("batch"))
            for part in torch.split(data.val, EVALUATION_ROWS)
        ]
        logits = torch.cat(parts, dim=1)
        found.append(area_under_roc(logits[..., 1] - logits[..., 0], data.labels[data.val]))
    return torch.cat(found)
