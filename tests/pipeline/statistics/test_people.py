"""Intervals over people: each metric of a draw is that of the clips that the draw holds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.statistics import evidence, metrics, people
from pipeline.statistics.metrics import UndefinedMetricError

SINGLE = {
    "auc": metrics.auc, "eer": metrics.eer, "average_precision": metrics.average_precision,
    "balanced_accuracy": metrics.balanced_accuracy, "f1": metrics.f1, "log_loss": metrics.log_loss,
    "brier": metrics.brier, "calibration_error": metrics.calibration_error, "min_dcf": evidence.min_dcf,
    "bpcer_at_apcer_1": lambda y, s: metrics.bpcer_at_apcer(y, s, 0.01),
    "bpcer_at_apcer_5": lambda y, s: metrics.bpcer_at_apcer(y, s, 0.05),
    "bpcer_at_apcer_10": lambda y, s: metrics.bpcer_at_apcer(y, s, 0.10),
    "apcer": lambda y, s: metrics.apcer(s[y == 1]), "bpcer": lambda y, s: metrics.bpcer(s[y == 0]),
    "cllr": lambda y, s: evidence.cllr(y, 4 * s - 2), "act_dcf": lambda y, s: evidence.act_dcf(y, 4 * s - 2),
}  # fmt: skip
"""Each metric of clips as they are; the log10 LR of a score s is taken to be 4 s - 2."""


def clips(seed: int, n: int = 60, n_people: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(labels, scores with ties, people)."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(n) % 2)
    return labels, np.round(random.random(n) * 0.6 + 0.3 * labels, 1), random.integers(n_people, size=n)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_draw_is_measured_as_the_clips_that_it_holds(seed: int) -> None:
    labels, scores, whose = clips(seed)
    draws = people.draw_people(whose, draws=5, seed=seed)
    found = people.drawn_metrics(labels, scores, draws, log10_lr=4 * scores - 2)
    lowest = people.drawn_cllr_min(labels, scores, draws)
    assert found.keys() == SINGLE.keys()
    for number, counts in enumerate(draws.counts):
        chosen = np.repeat(np.arange(len(labels)), counts[draws.member])
        for name, metric in SINGLE.items():
            assert found[name][number] == pytest.approx(metric(labels[chosen], scores[chosen]), abs=1e-6), name
        assert lowest[number] == pytest.approx(evidence.cllr_min(labels[chosen], scores[chosen]))


def test_a_draw_without_a_class_has_no_value_and_few_such_are_left_out() -> None:
    labels, scores = np.array([1, 1, 1, 0, 0, 0]), np.linspace(0.1, 0.9, 6)
    draws = people.Draws(np.array([[2, 2, 2, 0, 0, 0], [1] * 6]), np.arange(6))
    found = people.drawn_metrics(labels, scores, draws)
    assert all(np.isnan(values[0]) and np.isfinite(values[1]) for values in found.values())
    assert np.isnan(people.drawn_cllr_min(labels, scores, draws)[0])
    assert people.interval([np.nan, *range(19)]).draws == 19
    with pytest.raises(UndefinedMetricError, match="only 1 of 2 draws"):
        people.interval(found["auc"])


def test_fewer_than_six_people_are_not_drawn_whole_or_in_part() -> None:
    """Five coins fall alike in 1 of 16 throws, six in 1 of 32: no test of fewer people reaches 0.05."""
    with pytest.raises(UndefinedMetricError, match=r"^too few people \(5; 6 needed\)$"):
        people.draw_people(list("abcdea"))
    draws = people.draw_people(list("abcdefa"), draws=3)
    assert draws.of(slice(None)).counts.shape == (3, 6)
    with pytest.raises(UndefinedMetricError, match=r"^too few people \(2; 6 needed\)$"):
        draws.of(np.array([0, 1, 6]))


def test_the_same_seed_draws_the_same_people() -> None:
    whose = list("bfabcde")
    same, other = (people.draw_people(whose, draws=50, seed=seed).counts for seed in (1, 2))
    assert np.array_equal(same, people.draw_people(whose, draws=50, seed=1).counts)
    assert not np.array_equal(same, other)
    assert (same.sum(axis=1) == 6).all()


def test_a_method_is_less_certain_than_a_system() -> None:
    """Where the seeds differ more than the people do."""
    random = np.random.default_rng(0)
    values = 0.8 + 0.001 * random.standard_normal((2000, 1)) + np.array([0.05, -0.05, 0.02, -0.02])
    system, method = (people.interval(drawn) for drawn in (values.mean(axis=1), people.over_seeds(values)))
    assert method.high - method.low > 5 * (system.high - system.low)
    assert (method.high + method.low) / 2 == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("metric", ["auc", "eer", "brier"])
def test_the_true_value_lies_in_nineteen_of_twenty_intervals(metric: str) -> None:
    """People who have clips of their own ease: 60 with 5 clips each, 500 times."""
    random = np.random.default_rng(3)

    def draw(n_people: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        whose = np.repeat(np.arange(n_people), 5)
        labels = random.integers(2, size=len(whose))
        ease = random.standard_normal(n_people)[whose]
        latent = (1.0 + 0.6 * ease) * (labels - 0.5) + 0.8 * random.standard_normal(len(whose))
        return labels, 1 / (1 + np.exp(-latent)), whose

    truth = SINGLE[metric](*draw(40_000)[:2])
    inside = 0
    for number in range(500):
        labels, scores, whose = draw(60)
        found = people.drawn_metrics(labels, scores, people.draw_people(whose, draws=400, seed=number))
        limits = people.interval(found[metric])
        inside += limits.low <= truth <= limits.high
    assert 0.93 <= inside / 500 <= 0.97


def test_clips_of_one_person_count_as_one() -> None:
    random = np.random.default_rng(0)
    whose = np.repeat(np.arange(20), 20)
    labels = np.repeat(np.arange(20) % 2, 20)  # one label a person, as with one face-swap target
    scores = 0.8 * labels + random.normal(size=20)[whose] + 0.1 * random.normal(size=400)
    spans = []
    for clusters in (whose, np.arange(400)):
        drawn = people.drawn_metrics(labels, 1 / (1 + np.exp(-scores)), people.draw_people(clusters, draws=1000))
        found = people.interval(drawn["auc"])
        spans.append(found.high - found.low)
    assert spans[0] > 2 * spans[1]


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, scores, whose = clips(1)
    draws = people.draw_people(whose, draws=101)
    whole = people.drawn_metrics(labels, scores, draws)
    monkeypatch.setattr(people, "_BLOCK", 7 * 60)
    parts = people.drawn_metrics(labels, scores, draws)
    assert all(np.array_equal(whole[name], parts[name], equal_nan=True) for name in whole)
