"""`python -m benchmarks.strategies`: what a search over architectures is worth.

Every architecture of a small space (one cell over all layers of a cache, all its functions), or a sample of a large
one, is trained on folds of a protocol. Then random search, regularised evolution, local search and successive halving
are replayed for budgets of so many trainings, beside what one-shot searches find on the same fold, and beside
ensembles. `--work` and `--params` name a finished cache; what is trained is kept there. Prints tables in Markdown: AUC
of the clips that are tested, by the network that was chosen on val. `--planted xor` asks the same of a problem of
tests/nas/problems.py. What came out stands in docs/search.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from benchmarks.replay import STRATEGIES, Strategy, asked, best_of, halved
from benchmarks.truth import MEMBERS, Question, Truth, cuts_of, planted_truth, truth_of
from pipeline.params import load_params
from pipeline.runs.cache import Source
from pipeline.workspace import Workspace

Floats = NDArray[np.float64]
Places = NDArray[np.int64]
Way = tuple[str, int]
"""What is done, and for how many trainings."""

BUDGETS = (1, 2, 4, 8, 16, 32, 64, 128)
SHOWN = (4, 16, 64)
"""Budgets whose differences to random search are shown."""
RANDOM, HALVING = "random search", "successive halving"
SIZES, OF = (4, 8), (16, 64)
"""Networks of an ensemble, and trainings that they are the best of."""
PEOPLE_DRAWS = 2000


def replayed(truth: Truth, costs: Mapping[str, int], replays: int) -> dict[Way, Places]:
    """{way: (replays, k) the k networks whose mean score it ends with}, numbered architecture * S + training.

    costs: of searches, in trainings. In each replay every architecture has one of its trainings, drawn.
    """
    count, times = truth.val.shape
    wanted = {*BUDGETS, *OF, count, *(cost + 1 for cost in costs.values())}
    budgets = sorted(budget for budget in wanted if budget <= count)
    found: dict[Way, list[Places]] = {}
    for replay in range(replays):
        seed = [replay, *truth.cut.name.encode()]
        random = np.random.default_rng(seed)
        column = random.integers(times, size=(count,))
        val, curves = truth.val[np.arange(count), column], truth.curves[np.arange(count), column]
        ways: dict[Way, Places] = {}
        for name, strategy in strategies_on(truth).items():
            # All begin with the same draws: what is left of a difference is the strategies'.
            order = asked(strategy, val, truth.neighbours, np.random.default_rng([*seed, 1]), count)
            for budget in budgets:
                ways[name, budget] = best_of(order[:budget], val)
            if name == RANDOM:
                for size in SIZES:
                    ways[drawn(size), size] = order[:size]
                    for of in (of for of in (*OF, count) if of <= count):
                        ways[f"{size} best on val of {of}", of] = best_of(order[:of], val, size)
        for budget in BUDGETS:
            if (place := halved(curves, budget, random)) is not None:
                ways[HALVING, budget] = np.array([place])
        for name, searches in truth.found.items():
            ways |= _searched(name, [searches[i] for i in random.permutation(len(searches))], costs[name])
        for way, places in ways.items():
            found.setdefault(way, []).append(places * times + (column[places] + _again(places)) % times)
    return {way: np.array(places) for way, places in found.items()}


def _again(places: Places) -> Places:
    """(k,) how often each stood there before: who finds the same architecture again trains it with another seed."""
    return np.array([int((places[:i] == place).sum()) for i, place in enumerate(places)])


def strategies_on(truth: Truth) -> Mapping[str, Strategy]:
    """Those that can be replayed: random search alone where no neighbours are known."""
    return STRATEGIES if any(map(len, truth.neighbours)) else {RANDOM: STRATEGIES[RANDOM]}


def drawn(size: int) -> str:
    """The name of an ensemble of random architectures."""
    return f"{size} drawn"


def _searched(name: str, searches: Sequence[Sequence[int]], cost: int) -> dict[Way, Places]:
    """What one search gives, its members, and as many searches; searches: in random order."""
    ways = {(f"search, {name}", cost + 1): np.array(searches[0][:1])}
    if len(searches[0]) > 1:
        ways[f"{MEMBERS} members of a search, {name}", cost + MEMBERS] = np.array(searches[0])
    if len(searches) >= MEMBERS:
        ways[f"{MEMBERS} searches, {name}", MEMBERS * (cost + 1)] = np.array([of[0] for of in searches[:MEMBERS]])
    return ways


@dataclass(frozen=True)
class Worth:
    """What a way comes to in a group of tests."""

    values: Floats
    """(replays,) share of the pairs that are in order, all tests together"""
    people: Floats
    """(1 + draws,) the same, mean over replays: of the people as they are, and of drawn ones"""


def won(scores: Floats, labels: NDArray[np.int64]) -> Floats:
    """(..., fakes, reals) whether each fake is above each real clip, a half where they tie; scores: (..., clips)."""
    fake, real = scores[..., labels == 1], scores[..., labels == 0]
    return np.asarray(np.sign(fake[..., :, None] - real[..., None, :]) / 2 + 0.5)


def worth_of(truths: Sequence[Truth], networks: Sequence[Mapping[Way, Places]]) -> dict[Way, Worth]:
    """{way: what it comes to} of the tests of several folds together."""
    people = sorted({person for truth in truths for person in truth.cut.people})
    draws = np.random.default_rng(0).multinomial(len(people), np.full(len(people), 1 / len(people)), size=PEOPLE_DRAWS)
    counts = np.vstack([np.ones(len(people)), draws])
    weights = []
    for truth in truths:
        of_clip = counts[:, [people.index(person) for person in truth.cut.people]]
        weights.append((of_clip[:, truth.cut.labels == 1], of_clip[:, truth.cut.labels == 0]))
    pairs = sum(fake.sum(1) * real.sum(1) for fake, real in weights)
    found = {}
    for way in networks[0]:
        values, ordered = 0.0, 0.0
        for truth, of, (fake, real) in zip(truths, networks, weights, strict=True):
            scores = truth.scores.reshape(-1, len(truth.cut.labels))[of[way]].mean(1)
            inside = won(scores, truth.cut.labels)
            values = values + inside.sum((1, 2)) / pairs[0]
            ordered = ordered + ((fake @ inside.mean(0)) * real).sum(1)
        found[way] = Worth(np.asarray(values), np.asarray(ordered / np.maximum(pairs, 1)))
    return found


def aucs(truth: Truth) -> Floats:
    """(A, S) of the clips that are tested."""
    return np.asarray(won(truth.scores, truth.cut.labels).mean((2, 3)))


def described(title: str, truths: Sequence[Truth]) -> str:
    """What the space holds: how good architectures are, and whether val tells; folds count by their pairs."""
    tested, val = [aucs(truth).mean(1) for truth in truths], [truth.val.mean(1) for truth in truths]
    pairs = [won(truth.scores[0, 0], truth.cut.labels).size for truth in truths]
    clips, times = sum(len(truth.cut.labels) for truth in truths), truths[0].val.shape[1]
    found = f"### {title}\n\n{clips} clips tested, {sum(pairs)} pairs; trainings of each architecture: {times}"
    if times > 1:
        noise = np.average([aucs(truth).std(1, ddof=1).mean() for truth in truths], weights=pairs)
        found += f", deviation {noise:.3f}"
    found += "\n\n| architectures that read | number | val, windows | test, clips | best | worst | Kendall's tau |\n"
    found += f"{'| --- ' * 7}|\n"
    for kind in ("all", *sorted(set(truths[0].reads))):
        of = np.array([kind in ("all", read) for read in truths[0].reads])
        columns = [
            (v[of].mean(), t[of].mean(), t[of].max(), t[of].min(), kendalltau(v[of], t[of]).statistic)
            for v, t in zip(val, tested, strict=True)
        ]
        means = " | ".join(f"{mean:.3f}" for mean in np.average(columns, axis=0, weights=pairs))
        found += f"| {kind} | {of.sum()} | {means} |\n"
    return found


def best_of_all(truths: Sequence[Truth]) -> float:
    """The highest mean test AUC of an architecture, of each fold its own."""
    pairs = [won(truth.scores[0, 0], truth.cut.labels).size for truth in truths]
    return float(np.average([aucs(truth).mean(1).max() for truth in truths], weights=pairs))


def tables(truths: Sequence[Truth], worth: Mapping[Way, Worth]) -> str:
    """Budgets by strategies; then what is shown against random search, or against as many drawn networks."""
    found = by_budget({way: f"{of.values.mean():.3f}" for way, of in worth.items()}, len(truths[0].curves))
    found += "\n| way | trainings | AUC (95 % of replays) | regret | beside | difference (95 % over people) |\n"
    found += "| --- | --- | --- | --- | --- | --- |\n"
    best = best_of_all(truths)
    for (name, trainings), beside in compared(worth).items():
        mine, other = worth[name, trainings], worth[beside]
        mean, (low, high) = mine.values.mean(), np.percentile(mine.values, [2.5, 97.5])
        added, (a, b) = difference(mine, other)
        found += f"| {name} | {trainings} | {mean:.3f} ({low:.3f} to {high:.3f}) | {best - mean:.3f} "
        found += f"| {beside[0]}, {beside[1]} | {added:+.3f} ({a:+.3f} to {b:+.3f}) |\n"
    return found


def difference(mine: Worth, other: Worth) -> tuple[float, Floats]:
    """(of the means, its 95 % interval): over people, and over what another set of replays would have given.

    What other seeds of a search would have found is not in it: there are a few searches only.
    """
    added = mine.people - other.people
    replays = mine.values - other.values
    noise = np.random.default_rng(0).normal(0, replays.std() / len(replays) ** 0.5, len(added) - 1)
    return float(added[0]), np.percentile(added[1:] + noise, [2.5, 97.5])


def by_budget(cells: Mapping[Way, str], count: int) -> str:
    """A table: a row a strategy, a column a budget, the last one all `count` architectures."""
    columns = sorted({*(budget for budget in BUDGETS if budget < count), count})
    rows = [["strategy", *map(str, columns)], ["---"] * (len(columns) + 1)]
    shown = [name for name in (*STRATEGIES, HALVING) if any(way[0] == name for way in cells)]
    rows += [[name, *(cells.get((name, b), "-") for b in columns)] for name in shown]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def compared(worth: Mapping[Way, Worth]) -> dict[Way, Way]:
    """{way: what it is compared with}: random search of the same price; a chosen ensemble: as many networks drawn."""
    found: dict[Way, Way] = {}
    for name, trainings in worth:
        if name in (*STRATEGIES, HALVING):
            if trainings in SHOWN:
                found[name, trainings] = (RANDOM, 1 if name == RANDOM else trainings)
        elif name.startswith("search, "):
            found[name, trainings] = (RANDOM, trainings)
        else:
            size = int(name.split()[0])
            found[name, trainings] = (drawn(size), size) if name != drawn(size) else (RANDOM, size)
    return found


def planted(name: str, drawing: int, question: Question, replays: int) -> str:
    """How often each way ends with an architecture that reads what carries the label."""
    truth, fits = planted_truth(name, drawing, question)
    found = {way: f"{fits[of].mean():.2f}" for way, of in replayed(truth, {}, replays).items()}
    title = (
        f"### planted {name}: share of picks that read what carries the label, as {fits.sum()} of {len(fits)} do\n\n"
    )
    return title + by_budget(found, len(fits))


def main() -> None:
    """Trains what is not trained yet, prints the tables of every group of folds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--protocol", default="leave-one-source-out", help="of `bmnas protocol`, or a file")
    parser.add_argument("--clips", type=int, default=40, help="folds that test fewer, or one class alone, are left out")
    parser.add_argument("--together", action="store_true", help="one table of all folds, not one of each")
    parser.add_argument("--cells", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--sample", type=int, default=0, help="so many architectures, without what needs all of them")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of every architecture")
    parser.add_argument("--searches", type=int, default=4, help="of every kind and fold")
    parser.add_argument("--replays", type=int, default=500)
    parser.add_argument("--planted", default="", help="a problem of tests/nas/problems.py, instead of a cache")
    given = parser.parse_args()
    if 0 < given.sample < max(SIZES):
        parser.error(
            f"--sample is {given.sample}; allowed: 0 (all), or {max(SIZES)} and more, which ensembles are made of"
        )
    question = Question(given.cells, given.steps, given.sample, given.seeds, given.searches)
    if given.planted:
        print(planted(given.planted, 1, question, given.replays))
        return
    source = Source.of(Workspace(given.work), load_params(given.params))
    truths = [truth_of(source, cut, question) for cut in cuts_of(source, given.protocol, given.clips)]
    costs = {name: round(float(np.median([truth.costs[name] for truth in truths]))) for name in truths[0].costs}
    networks = [replayed(truth, costs, given.replays) for truth in truths]
    groups = [range(len(truths))] if given.together else [[i] for i in range(len(truths))]
    for group in groups:
        of_group = [truths[i] for i in group]
        title = given.protocol if given.together else of_group[0].cut.name
        print(described(title, of_group))
        print(tables(of_group, worth_of(of_group, [networks[i] for i in group])))


if __name__ == "__main__":
    main()
