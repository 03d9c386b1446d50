from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

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


def people(n_people: int, clips_each: int, *, seed: int, effect: float) -> tuple[np.ndarray, ...]:
    """Clips of people who each shift all of their scores together: dependent within a person."""
    random = np.random.default_rng(seed)
    person = np.repeat(np.arange(n_people), clips_each)
    labels = np.tile(np.arange(clips_each) % 2, n_people)
    scores = effect * labels + random.normal(size=n_people)[person] + 0.3 * random.normal(size=len(person))
    return labels, scores, person


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_interval_contains_the_estimate(seed: int) -> None:
    labels, scores, person = people(15, 6, seed=seed, effect=1.0)
    interval = metrics.bootstrap_mean_auc(labels, scores, person, resamples=300)
    assert interval.low <= metrics.auc(labels, scores) <= interval.high
    assert 0 <= interval.low < interval.high <= 1


def test_bootstrap_equals_resampling_by_hand() -> None:
    labels, scores, person = people(8, 4, seed=2, effect=0.8)
    scores = scores.round(1)  # ties
    draws = np.random.default_rng(5).multinomial(8, np.full(8, 1 / 8), size=50)
    by_hand = [roc_auc_score(np.repeat(labels, d[person]), np.repeat(scores, d[person])) for d in draws]
    interval = metrics.bootstrap_mean_auc(labels, scores, person, resamples=50, seed=5)
    assert [interval.low, interval.high] == pytest.approx(np.percentile(by_hand, [2.5, 97.5]))


def test_bootstrap_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    data = people(10, 4, seed=1, effect=0.5)
    whole = metrics.bootstrap_mean_auc(*data, resamples=101)
    monkeypatch.setattr(metrics, "_BOOTSTRAP_BLOCK", 7 * 40)
    assert metrics.bootstrap_mean_auc(*data, resamples=101) == whole


def test_clusters_widen_the_interval() -> None:
    random = np.random.default_rng(0)
    person = np.repeat(np.arange(20), 20)
    labels = np.repeat(np.arange(20) % 2, 20)  # one label a person, as with one face-swap target
    scores = 0.8 * labels + random.normal(size=20)[person] + 0.1 * random.normal(size=400)
    by_person = metrics.bootstrap_mean_auc(labels, scores, person)
    by_clip = metrics.bootstrap_mean_auc(labels, scores, np.arange(400))
    assert by_person.high - by_person.low > 2 * (by_clip.high - by_clip.low)


def test_interval_is_that_of_the_mean_over_networks() -> None:
    labels, good, person = people(12, 6, seed=4, effect=1.5)
    both = metrics.bootstrap_mean_auc(labels, np.stack([good, -good]), person)
    assert (both.low, both.high) == pytest.approx((0.5, 0.5))  # each draw's AUCs are a and 1 - a
    assert metrics.bootstrap_mean_auc(labels, np.stack([good, good]), person) == metrics.bootstrap_mean_auc(
        labels, good, person
    )


def test_perfect_scores_give_a_point_interval() -> None:
    labels = np.tile([0, 1], 10)
    interval = metrics.bootstrap_mean_auc(labels, labels.astype(float), np.repeat(np.arange(10), 2))
    assert (interval.low, interval.high, interval.resamples) == (1.0, 1.0, 1000)


@pytest.mark.parametrize(
    ("person", "reason"),
    [([7, 7, 7, 7], "one subject only"), ([0, 0, 1, 1], "of 1000 resamples of the subjects hold both classes")],
)
def test_too_few_subjects_give_no_interval(person: list[int], reason: str) -> None:
    with pytest.raises(metrics.UndefinedMetricError, match=reason):
        metrics.bootstrap_mean_auc([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], person)
