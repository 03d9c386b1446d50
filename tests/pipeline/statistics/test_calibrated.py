"""Reliability and Tippett curves of scores whose worth is known."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.statistics.calibrated import measure_calibration
from pipeline.statistics.tables import Level, Side


def side(seed: int, n: int = 2000, bend: float = 1.0) -> Side:
    """Scores that are probabilities, or with `bend` more or less sure than they may be."""
    random = np.random.default_rng(seed)
    odds = 2 * random.standard_normal(n)
    labels = (random.random(n) < 1 / (1 + np.exp(-odds))).astype(int)
    return Side(np.arange(n), labels, 1 / (1 + np.exp(-bend * odds))[None])


def test_overconfidence_is_seen_and_mended_by_val() -> None:
    found = measure_calibration(Level(val=side(0, bend=4), test=side(1, bend=4)))
    assert found["cllr"]["after"] < 0.75 < found["cllr"]["before"]
    bins = found["reliability"]
    assert sum(bins["n"]) == 2000
    assert bins["observed"][0] > bins["predicted"][0] + 0.03
    assert bins["observed"][-1] < bins["predicted"][-1] - 0.03
    honest = measure_calibration(Level(val=side(2), test=side(3)))["reliability"]
    assert np.abs(np.array(honest["observed"]) - honest["predicted"]).max() < 0.15


def test_tippett_curves_fall_from_one_and_part_the_classes() -> None:
    found = measure_calibration(Level(val=side(0), test=side(1)))
    real, fake = (np.array(found["tippett"][name]) for name in ("real", "fake"))
    for curve in (real, fake):
        assert curve[0, 1] == 1
        assert (np.diff(curve[:, 0]) > 0).all()
        assert (np.diff(curve[:, 1]) < 0).all()
        assert len(curve) <= 200
        low, high = found["limits"]
        assert low <= curve[:, 0].min() < 0 < curve[:, 0].max() <= high
    above = [curve[np.searchsorted(curve[:, 0], 0), 1] for curve in (real, fake)]
    assert above == pytest.approx([0.25, 0.75], abs=0.08)


def test_what_cannot_be_calibrated_says_why() -> None:
    nothing = Side(np.empty(0, int), np.empty(0, int), np.empty((1, 0)))
    found = measure_calibration(Level(val=nothing, test=side(1)))
    assert (found["kind"], found["reason"]) == (None, "val: no clips")
