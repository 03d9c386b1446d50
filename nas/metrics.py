"""Measures of scores over a runs axis."""

import torch
from torch import Tensor


def area_under_roc(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the area under the ROC curve per run (R,) of scores (R, N), labels (N,) in {0, 1}.

    Mann-Whitney: the mean rank of the positives; equal scores share their mean rank. NaN if a class is missing.
    """
    ordered = scores.sort(dim=1).values.contiguous()
    below = torch.searchsorted(ordered, scores.contiguous())
    up_to = torch.searchsorted(ordered, scores.contiguous(), right=True)
    ranks = (below + up_to + 1).double() / 2
    positive = labels.double()
    positives = positive.sum()
    negatives = labels.numel() - positives
    wins = (ranks * positive).sum(dim=1) - positives * (positives + 1) / 2
    return wins / (positives * negatives)
