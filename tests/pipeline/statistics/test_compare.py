"""Comparisons against a published example, the definition, and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.statistics import compare, metrics, people
from pipeline.statistics.metrics import UndefinedMetricError

# DeLong, DeLong and Clarke-Pearson 1988: albumin, total protein, K-G score, and whether surgery helped, of the patients
# for whom all three are known.
TABLE = """
    3.0 5.8 10 0   3.2 6.3  5 1   3.9 6.8  3 1   2.8 4.8  6 0   3.2 5.8  3 1   0.9 4.0  5 0   2.5 5.7  8 0
    1.6 5.6  5 1   3.8 5.7  5 1   3.7 6.7  6 1   3.2 5.4  4 1   3.8 6.6  6 1   4.1 6.6  5 1   3.6 5.7  5 1
    4.3 7.0  4 1   3.6 6.7  4 0   2.3 4.4  6 1   4.2 7.6  4 0   4.0 6.6  6 0   3.5 5.8  6 1   3.8 6.8  7 1
    3.0 4.7  8 0   4.5 7.4  5 1   3.7 7.4  5 1   3.1 6.6  6 1   4.1 8.2  6 1   4.3 7.0  5 1   4.3 6.5  4 1
    3.2 5.1  5 1   2.6 4.7  6 1   3.3 6.8  6 0   1.7 4.0  7 0   3.7 6.1  5 1   3.3 6.3  7 1   4.2 7.7  6 1
    3.5 6.2  5 1   2.9 5.7  9 0   2.1 4.8  7 1   2.8 6.2  8 0   4.0 7.0  7 1   3.3 5.7  6 1   3.7 6.9  5 1
    3.6 6.6  5 1
"""
PATIENTS = np.array(TABLE.split(), float).reshape(-1, 4)


def test_delong_gives_the_published_values() -> None:
    """SAS/STAT's documentation of PROC LOGISTIC, example "Comparing Receiver Operating Characteristic Curves"."""
    albumin, protein, score, label = PATIENTS.T
    aucs, covariance = compare.auc_covariance(label, np.stack([albumin, -score, protein]))
    assert aucs == pytest.approx([0.7366, 0.7258, 0.6478], abs=5e-5)
    assert np.sqrt(np.diag(covariance)) == pytest.approx([0.0927, 0.1028, 0.1000], abs=5e-5)
    first, second = (compare.delong(label, other, -score) for other in (albumin, protein))
    assert (first.value, first.standard_error, first.p) == pytest.approx((0.0108, 0.0953, 0.9102), abs=5e-5)
    assert (second.value, second.standard_error) == pytest.approx((-0.0780, 0.1046), abs=5e-5)


@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(2, 12))
def test_delong_is_the_variance_of_each_clips_share_of_pairs(seed: int, n_fake: int, n_real: int) -> None:
    random = np.random.default_rng(seed)
    labels = np.repeat([1, 0], [n_fake, n_real])
    scores = random.integers(6, size=(3, n_fake + n_real)).astype(float)
    pairs = np.sign(scores[:, :n_fake, None] - scores[:, None, n_fake:]) / 2 + 0.5
    by_definition = np.cov(pairs.mean(axis=2)) / n_fake + np.cov(pairs.mean(axis=1)) / n_real
    aucs, covariance = compare.auc_covariance(labels, scores)
    assert covariance == pytest.approx(by_definition, abs=1e-12)
    assert aucs == pytest.approx([metrics.auc(labels, row) for row in scores])


def test_equal_systems_are_called_different_as_often_as_chance_says() -> None:
    random = np.random.default_rng(5)
    labels = np.arange(80) % 2
    by_delong, by_draws = [], []
    for number in range(400):
        shared = random.standard_normal(80) + labels
        first, second = (shared + random.standard_normal(80) for _ in range(2))
        by_delong.append(compare.delong(labels, first, second).p)
        draws = people.draw_people(np.arange(80), draws=200, seed=number)
        drawn = [people.drawn_metrics(labels, 1 / (1 + np.exp(-s)), draws)["auc"] for s in (first, second)]
        by_draws.append(compare.drawn_p(drawn[0] - drawn[1]))
    for found in (by_delong, by_draws):
        assert 0.02 <= np.mean(np.array(found) < 0.05) <= 0.085


def test_what_is_equal_is_never_different() -> None:
    labels, scores = np.arange(20) % 2, np.linspace(0, 1, 20)
    assert compare.delong(labels, scores, scores) == compare.Difference(0.0, 0.0, 1.0)
    assert compare.drawn_p(np.zeros(100)) == 1
    assert compare.drawn_p(np.full(99, 0.1)) == pytest.approx(0.02)
    with pytest.raises(UndefinedMetricError, match="1 real and 3 fake clips: two of each"):
        compare.delong([0, 1, 1, 1], [0, 1, 2, 3], [0, 1, 2, 3])


def test_holm_by_hand() -> None:
    assert compare.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert compare.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert compare.holm([0.02]) == pytest.approx([0.02])
