"""Matching by hand, and what it does to a property that tells the label."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from pipeline.statistics.matching import matched
from pipeline.statistics.metrics import UndefinedMetricError, auc


def test_the_nearest_free_one_within_the_caliper_is_taken_once() -> None:
    odds = np.array([0.0, 3.0, 0.1, 0.2, 2.0, 9.0])
    labels = np.array([1, 1, 0, 0, 0, 0])
    pairs = {tuple(pair) for pair in matched(labels, expit(odds), seed=0, caliper=0.4).tolist()}
    assert pairs == {(0, 2), (1, 4)}
    assert {tuple(pair) for pair in matched(1 - labels, expit(odds), seed=0, caliper=0.4).tolist()} == {(2, 0), (4, 1)}
    assert {tuple(pair) for pair in matched(labels, expit(odds), seed=0, caliper=0.1).tolist()} == {(0, 2)}


@pytest.mark.parametrize("seed", range(5))
def test_what_the_properties_tell_is_gone_in_what_is_matched(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = (random.random(1500) < 0.7).astype(int)
    odds = random.standard_normal(1500) + 0.8 * labels
    pairs = matched(labels, expit(odds), seed=seed)
    assert (labels[pairs[:, 0]] == 1).all()
    assert (labels[pairs[:, 1]] == 0).all()
    assert len(np.unique(pairs)) == pairs.size
    assert np.abs(odds[pairs[:, 0]] - odds[pairs[:, 1]]).max() <= 0.2 * 1.2
    assert auc(labels, odds) > 0.68
    rows = pairs.ravel()
    assert len(pairs) > 300
    assert abs(auc(labels[rows], odds[rows]) - 0.5) < 0.02


def test_what_is_equal_is_matched_by_chance_not_by_order() -> None:
    labels = np.array([1] * 5 + [0] * 100)
    taken = {tuple(sorted(matched(labels, np.full(105, 0.3), seed=seed)[:, 1].tolist())) for seed in range(4)}
    assert len(taken) == 4
    assert all(len(of) == 5 for of in taken)


def test_one_class_has_no_partner() -> None:
    with pytest.raises(UndefinedMetricError, match="no real clips"):
        matched([1, 1], [0.1, 0.2], seed=0)
