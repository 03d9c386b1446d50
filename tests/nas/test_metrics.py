"""The batched area under the ROC curve against scikit-learn."""

import torch
from sklearn.metrics import roc_auc_score

from nas.metrics import area_under_roc


def test_equals_scikit_learn_with_and_without_ties():
    source = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (41,), generator=source)
    scores = torch.stack([torch.randn(41, generator=source), torch.randint(0, 4, (41,), generator=source).float()])
    expected = [roc_auc_score(labels, row) for row in scores]
    torch.testing.assert_close(area_under_roc(scores, labels), torch.tensor(expected, dtype=torch.float64))


def test_constant_scores_give_one_half():
    assert area_under_roc(torch.zeros(2, 6), torch.tensor([0, 1, 1, 0, 1, 1])).tolist() == [0.5, 0.5]
