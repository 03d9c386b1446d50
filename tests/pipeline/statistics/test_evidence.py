"""Likelihood ratios: what they cost by hand, and what calibration and bounds do to them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.statistics import evidence, strength

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1])


def drawn(seed: int, n: int = 400, *, distance: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """(labels, log10 LR) of two normal distributions, for which the LR is known."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    x = random.standard_normal(n) + distance * (labels - 0.5)
    return labels, distance * x / np.log(10)


def test_cllr_by_hand() -> None:
    assert evidence.cllr(LABELS, np.zeros(8)) == pytest.approx(1)  # says nothing
    assert evidence.cllr(LABELS, np.where(LABELS, 9, -9)) == pytest.approx(0, abs=1e-8)
    assert evidence.cllr(LABELS, np.where(LABELS, -2, 2)) == pytest.approx(np.log2(101))  # misleads
    lr = np.log10([0.5, 0.5, 0.5, 2, 2, 2, 2, 0.5])  # each side pays log2 1.5 three times and log2 3 once
    assert evidence.cllr(LABELS, lr) == pytest.approx((3 * np.log2(1.5) + np.log2(3)) / 4)


def test_cllr_min_by_hand() -> None:
    assert evidence.cllr_min(LABELS, [1, 2, 3, 4, 5, 6, 7, 8]) == pytest.approx(0)
    assert evidence.cllr_min(LABELS, [5, 6, 7, 8, 1, 2, 3, 4]) == pytest.approx(1)  # no ranking turned round
    # Pooled: three reals below all, then one of each, then three fakes: only that pair costs anything, a bit each.
    assert evidence.cllr_min(LABELS, [1, 2, 3, 6, 5, 7, 8, 9]) == pytest.approx(0.25)
    assert evidence.cllr_min(LABELS, [1, 2, 3, 5, 5, 7, 8, 9]) == pytest.approx(0.25)


@given(st.integers(0, 2**32 - 1))
def test_no_calibration_beats_the_best_one(seed: int) -> None:
    labels, lr = drawn(seed, 40)
    lowest = evidence.cllr_min(labels, lr)
    for told in (lr, 2 * lr, lr + 1, lr**3, np.zeros(40)):
        assert lowest <= evidence.cllr(labels, told) + 1e-12
    assert evidence.cllr_min(labels, np.exp(lr)) == pytest.approx(lowest)


def test_detection_costs_by_hand() -> None:
    """To stop a real clip costs 1.9 where to let a fake one pass costs 1; stopping all, or none, is the yardstick."""
    assert evidence.act_dcf(LABELS, np.full(8, -5)) == pytest.approx(1)
    assert evidence.act_dcf(LABELS, np.full(8, 5)) == pytest.approx(1.9)
    assert evidence.act_dcf(LABELS, [-5, -5, -5, 5, 5, 5, -5, -5]) == pytest.approx(1.9 / 4 + 2 / 4)
    assert evidence.called_fake([np.log10(1.8), np.log10(2.0)]).tolist() == [False, True]
    assert evidence.min_dcf(LABELS, [1, 2, 3, 6, 5, 7, 8, 9]) == pytest.approx(0.25)  # one fake passes
    assert evidence.min_dcf(LABELS, [5, 6, 7, 8, 1, 2, 3, 4]) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(3))
def test_a_calibration_tells_the_likelihood_ratio_of_other_clips(seed: int) -> None:
    """Of scores that are far too sure, and shifted."""
    labels, true = drawn(seed, 2000)
    scores = 1 / (1 + np.exp(-np.clip(5 * true * np.log(10) + 3, -600, 600)))
    found = evidence.calibrate(labels, scores)
    fresh_labels, fresh = drawn(seed + 100, 2000)
    told = found.log10_lr(1 / (1 + np.exp(-np.clip(5 * fresh * np.log(10) + 3, -600, 600))))
    inside = (fresh > found.limits[0]) & (fresh < found.limits[1])
    assert np.abs(told - fresh)[inside].mean() < 0.15
    assert evidence.cllr(fresh_labels, told) < evidence.cllr(fresh_labels, fresh) + 0.03


def test_isotonic_is_chosen_where_a_line_cannot_follow() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(2000) % 2
    scores = np.where(labels, random.choice([0.2, 0.5, 0.8], 2000, p=[0.1, 0.1, 0.8]), 0.5)
    scores = np.where(labels == 0, random.choice([0.2, 0.5, 0.8], 2000, p=[0.2, 0.7, 0.1]), scores)
    found = evidence.calibrate(labels, scores)
    assert found.kind == "isotonic"
    assert np.diff(found.log10_lr([0.0, 0.2, 0.5, 0.8, 1.0])).min() >= 0


@given(st.integers(0, 2**32 - 1), st.integers(3, 60))
def test_what_few_clips_cannot_support_is_not_claimed(seed: int, n: int) -> None:
    """Even if all were right, n + 1 clips of a class support at most an LR of n + 1."""
    labels, lr = drawn(seed, 2 * n, distance=3)
    low, high = evidence.bounds(labels, 10 * lr)
    assert -np.log10(n + 1) <= low <= 0 <= high <= np.log10(n + 1)
    found = evidence.calibrate(labels, 1 / (1 + np.exp(-np.clip(lr, -300, 300))))
    told = found.log10_lr([0.0, 1e-300, 0.5, 1 - 1e-16, 1.0])
    assert np.abs(told).max() <= np.log10(n + 1)
    assert (np.diff(told) >= 0).all()


def test_bounds_by_hand() -> None:
    labels = np.repeat([0, 1], 9)
    assert evidence.bounds(labels, np.repeat([-3.0, 3.0], 9)) == pytest.approx((-np.log10(9), np.log10(9)))
    assert evidence.bounds(labels, np.repeat([-0.2, 0.2], 9)) == pytest.approx((-0.2, 0.2))  # no more than was told
    assert evidence.bounds(labels, np.repeat([3.0, -3.0], 9)) == (0, 0)  # all misled


def test_words() -> None:
    told = [strength.in_words(lr) for lr in (0.1, -0.5, 1.5, -3, 5, 7)]
    assert told == [
        "no support either way", "weak support for a real clip", "moderate support for a fake",
        "moderately strong support for a real clip", "strong support for a fake", "very strong support for a fake",
    ]  # fmt: skip
