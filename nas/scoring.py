"""One evaluation of a search's architectures by their shared weights: curves, derivation and scores are all its.

Batch norms use the statistics of the rows scored: the stored ones belong to mixtures of architectures.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nas.data import DataError, Dataset, check_genotypes, prepare
from nas.genotype import Genotype
from nas.layers import Pass
from nas.network import FixedNetwork
from nas.space import Space

TOGETHER = 32
JUDGED_ROWS = 8192
"""Architectures, and rows times architectures, of one pass at most: what bounds its memory."""

Weights = Mapping[str, Tensor]
"""{name: (1, ...)}: the weights of one run, as `SearchResult.weights`; {name: (R, ...)}: of R runs."""


def shared_scores(
    features: Mapping[str, Tensor],
    labels: Any,
    split: Sequence[str],
    genotypes: Sequence[Genotype],
    weights: Weights,
    *,
    device: str | None = None,
) -> Tensor:
    """Return the AUC on val (n,) of n genotypes under one run's weights {name: (1, ...)}; NaN where it is undefined.

    features, labels, split: as for `nas.search`.
    """
    data = prepare(features, labels, split, device, reads="train_val")
    if not isinstance(weights, Mapping):
        raise DataError(
            f"weights is {weights!r}; allowed: SearchResult.weights, of a nas.search(..., keep_weights=True)"
        )
    judged = check_genotypes(genotypes, data.features)
    on_device = {name: value.to(data.device) for name, value in weights.items()}
    try:
        return val_scores(data, judged, on_device).cpu()
    except KeyError as error:
        raise DataError(
            f"weights has no {error}, which genotypes use; allowed: architectures of the space whose weights they are"
        ) from None


def val_scores(data: Dataset, genotypes: Sequence[Genotype], weights: Weights) -> Tensor:
    """Return the AUC on val (n,) of n genotypes under one run's weights, or each under its own run's."""
    logits = val_logits(data, genotypes, weights)
    return area_under_roc(logits[..., 1] - logits[..., 0], data.labels[data.val])


@torch.no_grad()
def val_logits(data: Dataset, genotypes: Sequence[Genotype], weights: Weights) -> Tensor:
    """Return logits (n, val rows, 2), in data.val's order, of n genotypes under one run's weights, or each its own.

    The statistics are those of all rows, or where there are more than JUDGED_ROWS of even parts: as the order of
    data.val is one of contents, a part is a random sample, and the same one in whatever order the caller's rows are.
    """
    parts = torch.tensor_split(data.val, -(-len(data.val) // JUDGED_ROWS))
    together, how = at_once(data), Pass("batch", gaps=data.gaps)
    found = []
    for start in range(0, len(genotypes), together):
        chosen = slice(start, start + together)
        of_chosen = {name: value if len(value) == 1 else value[chosen] for name, value in weights.items()}
        network = FixedNetwork.share(genotypes[chosen], of_chosen, data.in_channels)
        layers = tuple(network.readers)
        found.append(torch.cat([network(data.gather(part[None], layers), how) for part in parts], dim=1))
    return torch.cat(found)


def at_once(data: Dataset) -> int:
    """Return how many architectures are judged in one pass."""
    return min(TOGETHER, max(1, JUDGED_ROWS // len(data.val)))


def area_under_roc(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the area under the ROC curve per run (R,) of scores (R, N), labels (N,) in {0, 1}.

    Mann-Whitney: the mean rank of the positives; equal scores share their mean rank. NaN if a class is missing, or a
    score is not finite.
    """
    ordered = scores.sort(dim=1).values.contiguous()
    below = torch.searchsorted(ordered, scores.contiguous())
    up_to = torch.searchsorted(ordered, scores.contiguous(), right=True)
    ranks = (below + up_to + 1).double() / 2
    positive = labels.double()
    positives = positive.sum()
    negatives = labels.numel() - positives
    wins = (ranks * positive).sum(dim=1) - positives * (positives + 1) / 2
    return (wins / (positives * negatives)).masked_fill(~scores.isfinite().all(dim=1), math.nan)


def best_of(
    drawn: Sequence[Genotype], space: Space, data: Dataset, weights: Weights, *, count: int
) -> dict[Genotype, float]:
    """Return `count` genotypes, each with its AUC on val under one run's weights, the best first.

    First those drawn are compared, then the neighbours of the best one, then those of the best one whose neighbours are
    not yet compared, and so on: a draw gets one of its many choices wrong more easily than all of them right. One whose
    AUC is undefined comes last.
    """
    scores: dict[Genotype, float] = {}
    expanded: set[Genotype] = set()
    pending = list(dict.fromkeys(drawn))[:count]

    def worth(genotype: Genotype) -> float:
        return -math.inf if math.isnan(scores[genotype]) else scores[genotype]

    while pending:
        scores |= zip(pending, val_scores(data, pending, weights).tolist(), strict=True)
        pending = []
        while not pending and len(expanded) < len(scores) < count:
            best = max((g for g in scores if g not in expanded), key=worth)
            expanded.add(best)
            new = [g for g in space.neighbours(best) if g not in scores]
            pending = new[: count - len(scores)]
    return {genotype: scores[genotype] for genotype in sorted(scores, key=worth, reverse=True)}
