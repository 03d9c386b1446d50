from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, log_loss

from pipeline.statistics import metrics

Pairs = tuple[np.ndarray, np.ndarray]


@st.composite
def labelled_scores(draw: st.DrawFn) -> Pairs:
    """Both classes, and few enough distinct scores that ties are the rule."""
    n = draw(st.integers(2, 40))
    labels = draw(st.lists(st.integers(0, 1), min_size=n, max_size=n).filter(lambda y: 0 < sum(y) < len(y)))
    scores = draw(st.lists(st.integers(0, 12), min_size=n, max_size=n))
    return np.array(labels), np.array(scores) / 12


def pairwise_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """The definition: fakes against reals, one pair at a time."""
    fake, real = scores[labels == 1][:, None], scores[labels == 0][None, :]
    return float(((fake > real) + 0.5 * (fake == real)).mean())


@given(labelled_scores())
def test_auc_is_the_fraction_of_pairs_in_order(pairs: Pairs) -> None:
    assert metrics.auc(*pairs) == pytest.approx(pairwise_auc(*pairs))


@given(labelled_scores())
def test_ranking_metrics_ignore_monotone_transforms(pairs: Pairs) -> None:
    labels, scores = pairs
    for metric in (metrics.auc, metrics.eer, metrics.average_precision):
        assert metric(labels, np.exp(3 * scores) - 7) == pytest.approx(metric(labels, scores))


@given(labelled_scores())
def test_metrics_stay_in_bounds_and_mirror(pairs: Pairs) -> None:
    labels, scores = pairs
    for metric in (metrics.auc, metrics.eer, metrics.average_precision, metrics.balanced_accuracy):
        assert 0 <= metric(labels, scores) <= 1
    assert metrics.auc(labels, -scores) == pytest.approx(1 - metrics.auc(labels, scores))
    assert metrics.eer(labels, -scores) == pytest.approx(1 - metrics.eer(labels, scores))
    assert metrics.eer(1 - labels, -scores) == pytest.approx(metrics.eer(labels, scores))
    assert metrics.separability(labels, -scores) == pytest.approx(metrics.separability(labels, scores))
    assert metrics.separability(labels, scores) >= 0.5


@pytest.mark.parametrize(
    ("labels", "scores", "auc", "eer"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], 1.0, 0.0),  # perfect
        ([0, 0, 1, 1], [0.8, 0.9, 0.1, 0.2], 0.0, 1.0),  # perfectly wrong
        ([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5], 0.5, 0.5),  # says nothing
        ([0, 0, 0, 1], [0.3, 0.3, 0.3, 0.3], 0.5, 0.5),  # says nothing, unequal classes
        ([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9], 0.75, 0.5),  # one pair of four the wrong way round
        ([0, 0, 0, 0, 1, 1, 1, 1], [0, 1, 2, 4, 3, 5, 6, 7], 15 / 16, 0.25),  # one error on each side of 3.5
        ([0, 0, 1, 1], [0.0, 0.5, 0.5, 1.0], 0.875, 0.25),  # half way along the tie
    ],
)
def test_hand_made_cases(labels: list[int], scores: list[float], auc: float, eer: float) -> None:
    assert metrics.auc(labels, scores) == pytest.approx(auc)
    assert metrics.eer(labels, scores) == pytest.approx(eer)


def test_eer_of_noise_is_near_one_half() -> None:
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, 20_000)
    assert metrics.eer(labels, random.random(20_000)) == pytest.approx(0.5, abs=0.02)


def test_average_precision_of_a_constant_is_the_prevalence() -> None:
    assert metrics.average_precision([0, 0, 0, 1], [0.2] * 4) == pytest.approx(0.25)


@given(labelled_scores())
def test_balanced_accuracy_agrees_with_sklearn(pairs: Pairs) -> None:
    labels, scores = pairs
    assert metrics.balanced_accuracy(labels, scores) == pytest.approx(balanced_accuracy_score(labels, scores >= 0.5))


def test_balanced_accuracy_is_not_fooled_by_imbalance() -> None:
    labels = np.array([0] * 5 + [1] * 215)
    assert metrics.balanced_accuracy(labels, np.ones(220)) == 0.5  # plain accuracy would say 0.977


@given(labelled_scores())
def test_roc_rises_from_corner_to_corner(pairs: Pairs) -> None:
    fpr, tpr = metrics.roc_points(*pairs)
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(fpr) >= 0).all()
    assert (np.diff(tpr) >= 0).all()
    assert np.trapezoid(tpr, fpr) == pytest.approx(metrics.auc(*pairs))


def test_roc_is_thinned_but_keeps_its_ends_and_area() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 20_000)
    scores = labels + random.normal(size=20_000)
    fpr, tpr = metrics.roc_points(labels, scores, max_points=100)
    assert len(fpr) == 100
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(tpr, fpr) == pytest.approx(metrics.auc(labels, scores), abs=0.002)


@pytest.mark.parametrize(("labels", "reason"), [([1, 1], "no real clips"), ([0, 0], "no fake clips"), ([], "no clips")])
def test_one_class_is_undefined_and_says_why(labels: list[int], reason: str) -> None:
    scores = [0.5] * len(labels)
    for metric in (metrics.auc, metrics.eer, metrics.average_precision, metrics.balanced_accuracy):
        with pytest.raises(metrics.UndefinedMetricError, match=reason):
            metric(labels, scores)
    with pytest.raises(metrics.UndefinedMetricError, match=reason):
        metrics.chance_separability(labels.count(0), labels.count(1))


@pytest.mark.parametrize(
    ("labels", "scores", "text"),
    [
        ([0, 1], [0.1, float("nan")], "1 of 2 scores are not finite"),
        ([0, 2], [0.1, 0.2], "only 0 .* and 1"),
        ([0, 1], [0.1], "one length"),
    ],
)
def test_malformed_input_is_an_error_not_a_gap(labels: list[int], scores: list[float], text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        metrics.auc(labels, scores)
    assert not isinstance(caught.value, metrics.UndefinedMetricError)


def test_chance_separability_bounds_uninformative_quantities() -> None:
    random = np.random.default_rng(3)
    labels = np.array([0] * 12 + [1] * 20)
    values = [metrics.separability(labels, random.random(32)) for _ in range(2000)]
    below = np.mean(np.array(values) < metrics.chance_separability(12, 20))
    assert below == pytest.approx(0.95, abs=0.02)
    assert metrics.chance_separability(1, 1) == 1.0


def test_decisions_by_hand() -> None:
    labels, scores = np.array([0, 0, 0, 0, 1, 1, 1, 1]), np.array([0.1, 0.2, 0.3, 0.6, 0.4, 0.7, 0.8, 0.9])
    assert metrics.apcer(scores[labels == 1]) == 0.25
    assert metrics.bpcer(scores[labels == 0]) == 0.25
    assert metrics.f1(labels, scores) == pytest.approx(0.75)
    assert metrics.best_threshold(labels, scores) in (0.4, 0.7)
    assert metrics.bpcer_at_apcer(labels, scores, 0.0) == 0.25  # at 0.4: the real clip of 0.6 is stopped
    assert metrics.bpcer_at_apcer(labels, scores, 0.25) == 0  # at 0.7, and the fake one of 0.4 passes
    assert metrics.bpcer_at_apcer(labels, scores, 1.0) == 0


@given(labelled_scores(), st.sampled_from([0.01, 0.05, 0.1, 0.3]))
def test_bpcer_at_apcer_is_the_least_of_all_thresholds_that_hold_it(pairs: Pairs, limit: float) -> None:
    labels, scores = pairs
    fake, real = scores[labels == 1], scores[labels == 0]
    allowed = [t for t in (*np.unique(scores), 2.0) if metrics.apcer(fake, threshold=t) <= limit]
    assert metrics.bpcer_at_apcer(labels, scores, limit) == min(metrics.bpcer(real, threshold=t) for t in allowed)


@given(labelled_scores())
def test_probabilities_are_judged_as_sklearn_does(pairs: Pairs) -> None:
    labels, scores = pairs
    clipped = np.clip(scores, np.finfo(float).eps, 1 - np.finfo(float).eps)
    assert metrics.log_loss(labels, scores) == pytest.approx(log_loss(labels, clipped), rel=1e-6)
    assert metrics.brier(labels, scores) == pytest.approx(brier_score_loss(labels, scores))


def test_calibration_error_by_hand() -> None:
    assert metrics.calibration_error([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5]) == pytest.approx(0)
    assert metrics.calibration_error([0, 0, 0, 1], [0.5, 0.5, 0.5, 0.5]) == pytest.approx(0.25)
    assert metrics.calibration_error([0, 1, 1, 1], [0.0, 1.0, 0.2, 0.2]) == pytest.approx(0.4)  # half of them by 0.8
