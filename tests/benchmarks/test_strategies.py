"""What ways to a network are worth, on tables made up so that it is known."""

import numpy as np
import pytest

from benchmarks.strategies import Way, Worth, aucs, compared, described, difference, replayed, worth_of
from benchmarks.truth import Cut, Truth

A, S, E, CLIPS = 70, 2, 4, 24


@pytest.fixture(scope="module")
def truth() -> Truth:
    """Clips of six people; a higher number is a better architecture, on val and on test."""
    random = np.random.default_rng(0)
    labels = np.arange(CLIPS) % 2
    quality = np.linspace(0, 2, A)[:, None]
    curves = 0.5 + quality[..., None] / 5 + np.arange(E) / 100 + random.uniform(0, 0.001, (A, S, E))
    scores = quality[..., None] * labels + random.standard_normal((A, S, CLIPS))
    people = tuple(f"p{clip // 4}" for clip in range(CLIPS))
    cut = Cut("made up", ("test",) * CLIPS, np.arange(CLIPS), labels, people)
    beside = [np.array([(i + by) % A for by in (-2, -1, 1, 2)]) for i in range(A)]
    found = {"good": [[A - 1, A - 2, A - 3, A - 4]] * 4, "bad": [[0, 1, 2, 3]] * 4}
    reads = ["audio", "visual"] * (A // 2)
    return Truth(cut, reads, beside, curves, scores, found, {"good": 3.0, "bad": 3.0})


@pytest.fixture(scope="module")
def worth(truth: Truth) -> dict[Way, Worth]:
    return worth_of([truth], [replayed(truth, {"good": 3, "bad": 3}, 60)])


def test_one_drawn_network_is_worth_the_mean_of_all(truth: Truth, worth: dict[Way, Worth]) -> None:
    values = worth["random search", 1].values
    assert values.mean() == pytest.approx(aucs(truth).mean(), abs=4 * values.std() / len(values) ** 0.5)


@pytest.mark.parametrize("name", ["random search", "regularised evolution", "local search, best of all"])
def test_who_trains_all_ends_with_the_best_on_val(truth: Truth, worth: dict[Way, Worth], name: str) -> None:
    best = aucs(truth)[truth.val.max(1).argmax()]
    assert set(worth[name, A].values.round(9)) == set(best.round(9))


def test_what_a_search_found_is_worth_what_was_trained_of_it(truth: Truth, worth: dict[Way, Worth]) -> None:
    assert set(worth["search, bad", 4].values.round(9)) == set(aucs(truth)[0].round(9))
    added, (low, _) = difference(worth["search, good", 4], worth["search, bad", 4])
    assert added > 0.2
    assert low > 0


def test_evolution_is_random_search_until_its_population_is_full(worth: dict[Way, Worth]) -> None:
    added, interval = difference(worth["regularised evolution", 16], worth["random search", 16])
    assert (added, *interval) == (0, 0, 0)


def test_one_architecture_found_again_is_trained_with_another_seed(truth: Truth, worth: dict[Way, Worth]) -> None:
    both = truth.scores[A - 1].mean(0)  # four times the same one, of which there are two trainings
    fake, real = both[truth.cut.labels == 1], both[truth.cut.labels == 0]
    assert worth["4 searches, good", 16].values == pytest.approx((fake[:, None] > real).mean())


def test_the_people_as_they_are_come_first_and_count_once(truth: Truth, worth: dict[Way, Worth]) -> None:
    for of in worth.values():
        assert of.people[0] == pytest.approx(of.values.mean())


def test_folds_count_by_their_pairs(truth: Truth) -> None:
    networks = replayed(truth, {"good": 3, "bad": 3}, 5)
    one, twice = worth_of([truth], [networks]), worth_of([truth] * 2, [networks] * 2)
    assert twice["random search", 4].values == pytest.approx(one["random search", 4].values)


def test_all_are_compared_with_chance_of_the_same_price(worth: dict[Way, Worth]) -> None:
    beside = compared(worth)
    assert beside["regularised evolution", 16] == ("random search", 16)
    assert beside["search, good", 4] == ("random search", 4)
    assert beside["4 drawn", 4] == ("random search", 4)
    assert beside["4 best on val of 16", 16] == ("4 drawn", 4)
    assert beside["4 members of a search, good", 7] == ("4 drawn", 4)


def test_the_space_is_described_by_what_its_architectures_read(truth: Truth) -> None:
    rows = [line.split(" | ") for line in described("made up", [truth]).splitlines() if line.startswith("| ")]
    assert [(row[0], row[1]) for row in rows[2:]] == [("| all", "70"), ("| audio", "35"), ("| visual", "35")]
    assert float(rows[2][3]) == pytest.approx(aucs(truth).mean(), abs=0.001)
    assert float(rows[2][4]) == pytest.approx(aucs(truth).mean(1).max(), abs=0.001)
    assert float(rows[2][6].rstrip(" |")) > 0.5  # val was made to tell
