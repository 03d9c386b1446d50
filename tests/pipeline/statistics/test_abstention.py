"""What "cannot tell" costs: curves and costs by hand, and the entry of metrics.json against its own tables."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.statistics.abstention import area, balanced_weights, costs, measure_evidence, risk_coverage
from tests.pipeline.statistics.test_limits import CLIPS, SCORES

SAME = np.full(4, 0.25)


def test_a_curve_by_hand() -> None:
    coverage, risk = risk_coverage([0, 1, 0, 1], [4, 1, 3, 2], SAME)  # the two least certain are wrong
    assert coverage == pytest.approx([0.25, 0.5, 0.75, 1])
    assert risk == pytest.approx([0, 0, 1 / 3, 1 / 2])
    assert area(coverage, risk) == pytest.approx((1 / 3 + 1 / 2) / 4)
    worst = risk_coverage([0, 1, 0, 1], [1, 4, 2, 3], SAME)  # the most certain are
    assert worst[1] == pytest.approx([1, 1, 2 / 3, 1 / 2])


def test_weights_count() -> None:
    """Three fakes and one real clip: the real one counts as much as all of them."""
    weights = balanced_weights([1, 1, 1, 0])
    assert weights == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])
    coverage, risk = risk_coverage([0, 0, 0, 1], [4, 3, 2, 1], weights)
    assert coverage == pytest.approx([1 / 6, 1 / 3, 1 / 2, 1])
    assert risk == pytest.approx([0, 0, 0, 0.5])


@given(st.integers(0, 2**32 - 1), st.integers(2, 40))
def test_clips_that_are_equally_certain_come_in_no_order(seed: int, n: int) -> None:
    random = np.random.default_rng(seed)
    errors, certainty, weights = random.integers(0, 2, n), random.integers(0, 3, n), random.uniform(0.1, 1, n)
    found = area(*risk_coverage(errors, np.zeros(n), np.ones(n)))
    assert found == pytest.approx(errors.mean())  # no certainty: the risk of all of them, at every coverage
    mixed = random.permutation(n)
    one = risk_coverage(errors, certainty, np.ones(n))
    other = risk_coverage(errors[mixed], certainty[mixed], np.ones(n))
    assert one[1] == pytest.approx(other[1])
    _, risk = risk_coverage(errors, certainty, weights)
    assert risk[-1] == pytest.approx(np.average(errors, weights=weights))


def test_costs_by_hand() -> None:
    """A fake that passes costs 10, a real clip that is stopped 1, and "cannot tell" 0.2."""
    labels, called = np.array([0, 0, 1, 1, 0, 1]), np.array([0, 1, 1, 0, 1, 0], bool)
    answered = np.array([1, 1, 1, 1, 0, 0], bool)
    assert costs(labels, called, answered).tolist() == [0, 1, 0, 10, 0.2, 0.2]


def test_of_a_clip_the_cost_is_expected_at_one_fake_in_twenty() -> None:
    """One of twelve fakes passes, and one of twelve real clips is stopped."""
    errs = CLIPS[CLIPS["split"] == "test"].groupby("label")["clip_id"].first()
    scores = SCORES.assign(score=SCORES["clip_id"].map(CLIPS.set_index("clip_id")["label"]).clip(0.02, 0.98))
    flipped = scores.assign(score=scores["score"].where(~scores["clip_id"].isin(errs), 1 - scores["score"]))
    found = measure_evidence(CLIPS, flipped)["systems"]["fusion"]
    assert found["cost"]["value"] == pytest.approx(0.05 * 10 / 12 + 0.95 * 1 / 12)
    assert found["risk"]["value"] == pytest.approx(1 / 12)


def test_withheld_clips_leave_coverage_and_their_errors() -> None:
    plain = measure_evidence(CLIPS, SCORES)["systems"]["fusion"]
    assert plain["coverage"]["value"] > 0.8
    test = CLIPS["split"] == "test"
    wrong = CLIPS.loc[test & (CLIPS["label"] == 0), "clip_id"].iloc[0]
    scores = SCORES.assign(score=SCORES["score"].mask(SCORES["clip_id"] == wrong, 0.95))  # all its networks err
    bad = measure_evidence(CLIPS, scores)["systems"]["fusion"]
    assert bad["risk"]["value"] == pytest.approx(plain["risk"]["value"] + 0.05, abs=0.01)  # one real clip of twelve
    far = CLIPS.assign(visual_distance=CLIPS["visual_distance"].mask(CLIPS["clip_id"] == wrong, 99.0))
    saved = measure_evidence(far, scores)["systems"]["fusion"]
    assert saved["withheld"]["visual_distance"] == {"clips": 1, "real": 1, "fake": 0}
    assert saved["answered"] == bad["answered"] - 1
    assert saved["risk"]["value"] == pytest.approx(plain["risk"]["value"], abs=0.01)
    assert saved["risk_if_all_were_answered"] == bad["risk_if_all_were_answered"]
    assert saved["cost"]["value"] < bad["cost"]["value"]
    assert saved["coverage"]["low"] <= saved["coverage"]["value"] <= saved["coverage"]["high"]
    assert saved["coverage"]["low"] < saved["coverage"]["high"]
    away = CLIPS["subject_id"] == CLIPS.loc[CLIPS["clip_id"] == wrong, "subject_id"].iloc[0]
    fewer = measure_evidence(CLIPS.assign(visual_distance=CLIPS["visual_distance"].mask(away, 99.0)), scores)
    fewer = fewer["systems"]["fusion"]
    assert fewer["coverage"]["low"] is not None
    assert fewer["risk"]["low"] is None
    assert fewer["risk"]["reason"] == "no interval: too few people (5; 6 needed)", "those who are answered"


def test_the_entry_is_plain_json_and_says_what_is_not_defined() -> None:
    found = measure_evidence(CLIPS[(CLIPS["split"] == "val") | (CLIPS["label"] == 1)], SCORES)
    json.dumps(found, allow_nan=False)
    assert "no real clips" in found["systems"]["fusion"]["reason"]
    json.dumps(measure_evidence(CLIPS, SCORES[SCORES["seed"] == 0]), allow_nan=False)
    alone = measure_evidence(CLIPS[(CLIPS["split"] == "val") | (CLIPS["subject_id"] == "p1")], SCORES)
    assert "too few people (1; 6 needed)" in alone["systems"]["audio"]["area"]["reason"]
    assert alone["systems"]["audio"]["area"]["value"] is not None


def test_nothing_answered_has_no_risk() -> None:
    far = CLIPS.assign(visual_distance=CLIPS["visual_distance"].mask(CLIPS["split"] == "test", 99.0))
    found = measure_evidence(far, SCORES)["systems"]["fusion"]
    assert (found["answered"], found["coverage"]["value"], found["risk"]["value"]) == (0, 0, None)
    assert found["risk"]["reason"] == "no clips"
    assert found["cost"]["value"] == pytest.approx(0.2)
