"""Strategies on made-up tables, whose answers are known in closed form."""

from math import comb

import numpy as np
import pytest

from benchmarks.replay import STRATEGIES, Neighbours, asked, best_of, halved
from nas.space import Space, canonical

ALL = sorted(STRATEGIES)


def ring(count: int) -> Neighbours:
    """Each differs in one choice from the four beside it."""
    return [np.array([(i + by) % count for by in (-2, -1, 1, 2)]) for i in range(count)]


def table(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(val, test) AUC, related but not the same."""
    random = np.random.default_rng(seed)
    val = random.uniform(0.5, 1, count)
    return val, 0.5 * val + random.uniform(0, 0.5, count)


@pytest.mark.parametrize("budget", [1, 3, 10])
def test_random_search_finds_what_the_best_on_val_of_so_many_is_worth(budget: int) -> None:
    val, test = table(20)
    # The r-th worst on val is the best of n drawn ones, if the others are of the r - 1 below it.
    expected = sum(
        comb(rank, budget - 1) / comb(20, budget) * test[place] for rank, place in enumerate(np.argsort(val))
    )
    random, search = np.random.default_rng(0), STRATEGIES["random search"]
    found = [test[best_of(asked(search, val, ring(20), random, budget), val)[0]] for _ in range(4000)]
    assert np.mean(found) == pytest.approx(expected, abs=4 * np.std(found) / 4000**0.5)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("budget", [1, 7, 16, 29, 60])
def test_no_strategy_trains_more_than_the_budget_or_one_twice(name: str, budget: int) -> None:
    told: list[int] = []

    class Val(np.ndarray):
        def __getitem__(self, place: int) -> float:  # type: ignore[override]
            told.append(int(place))
            return float(super().__getitem__(place))

    order = asked(STRATEGIES[name], table(60)[0].view(Val), ring(60), np.random.default_rng(0), budget)
    assert told == order.tolist()
    assert len(order) == len(set(order.tolist())) == budget


@pytest.mark.parametrize("name", ALL)
def test_with_the_whole_budget_every_strategy_finds_the_best_on_val(name: str) -> None:
    for seed in range(5):
        val, _ = table(60, seed)
        order = asked(STRATEGIES[name], val, ring(60), np.random.default_rng(seed), 60)
        assert best_of(order, val).tolist() == [val.argmax()]


@pytest.mark.parametrize("name", [name for name in ALL if name != "random search"])
def test_who_follows_neighbours_beats_chance_where_each_choice_counts_for_itself(name: str) -> None:
    first, second = np.divmod(np.arange(400), 20)
    beside = [np.flatnonzero((first == a) ^ (second == b)) for a, b in zip(first, second, strict=True)]
    val = (first + second) / 38.0

    def found(of: str) -> float:
        randoms = map(np.random.default_rng, range(30))
        return float(np.mean([val[asked(STRATEGIES[of], val, beside, random, 100)].max() for random in randoms]))

    assert found(name) > found("random search")


def test_the_best_of_a_neighbourhood_is_gone_to_only_once_all_of_it_is_known() -> None:
    val = -np.abs(np.arange(50) - 25.0)
    for seed in range(10):
        order = asked(STRATEGIES["local search, best of all"], val, ring(50), np.random.default_rng(seed), 5).tolist()
        assert set(order[1:]) == set(ring(50)[order[0]].tolist())


def test_halving_trains_twice_as_many_for_the_same_price_and_keeps_who_leads() -> None:
    curves = np.linspace(0, 0.3, 8)[:, None] + np.linspace(0.5, 0.6, 8)
    assert halved(curves, 4, np.random.default_rng(0)) == 7
    late = curves.copy()
    late[0, -1] = 1.0  # the best in the end, and the worst before: it does not get so far
    assert halved(late, 4, np.random.default_rng(0)) == 7
    assert [halved(curves, budget, np.random.default_rng(0)) for budget in (1, 3, 8)] == [None] * 3


def test_neighbours_of_the_real_space_lead_everywhere() -> None:
    space = Space(("visual/a", "visual/b", "audio/a"), 1, 1)
    genotypes = space.distinct()
    place = {genotype: i for i, genotype in enumerate(genotypes)}
    beside = [np.array(sorted({place[canonical(n)] for n in space.neighbours(g)} - {place[g]})) for g in genotypes]
    val, _ = table(len(genotypes))
    order = asked(STRATEGIES["local search, first better"], val, beside, np.random.default_rng(0), len(genotypes))
    assert sorted(order.tolist()) == list(range(len(genotypes)))
