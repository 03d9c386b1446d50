"""Candidates of a derivation: neighbours stay in the space and reach all of it; the best by the shared weights wins."""

import pytest

import nas
from nas.data import prepare
from nas.derivation import neighbours
from nas.enumeration import Space
from nas.scoring import best_of, val_scores
from nas.space import Candidates

from .synthetic import noise

LAYERS = ("visual/l0", "visual/l1", "audio/l0")
OPERATIONS = ("Sum", "ConcatFC")


def space_of(kind, cells, steps, operations=OPERATIONS):
    return Space(LAYERS, cells, steps, kind, operations), Candidates.full(LAYERS, cells, steps, operations)


@pytest.mark.parametrize("kind", ["slots", "bmnas"])
@pytest.mark.parametrize(("cells", "steps", "operations"), [(1, 2, OPERATIONS), (2, 1, ("ConcatFC",))])
def test_neighbours_are_of_the_space_differ_in_one_node_and_reach_every_genotype(kind, cells, steps, operations):
    space, candidates = space_of(kind, cells, steps, operations)
    every = set(space.genotypes())
    start = next(space.genotypes())
    reached, pending = {start}, [start]
    while pending:
        genotype = pending.pop()
        beside = neighbours(genotype, candidates, kind)
        assert len(set(beside)) == len(beside)
        assert set(beside) <= every - {genotype}
        assert all(changed_nodes(genotype, other) == 1 for other in beside)
        pending += set(beside) - reached
        reached |= set(beside)
    assert reached == every


def changed_nodes(one, other):
    """In how many of its pairs of inputs and operations a genotype differs from another."""
    changed = 0
    for a, b in zip(one.cells, other.cells, strict=True):
        changed += (a.x, a.y) != (b.x, b.y)
        for s, t in zip(a.steps, b.steps, strict=True):
            changed += ((s.x, s.y) != (t.x, t.y)) + (s.operation != t.operation)
    return changed


@pytest.fixture(scope="module")
def searched():
    """Return a data set of noise and the shared weights of a search over it, in a space of 24 genotypes."""
    features, labels, split = noise(windows=96)
    features = {name: features[name] for name in LAYERS}
    config = nas.SearchConfig(
        cells=1, steps=1, channels=4, epochs=2, warmup_epochs=1, operations=OPERATIONS, derive="argmax"
    )
    result = nas.search(features, labels, split, config, keep_weights=True)[0]
    return prepare(features, labels, split, None, reads="train_val"), result.weights


def test_without_a_limit_the_best_of_the_whole_space_is_found(searched):
    data, weights = searched
    space, candidates = space_of("slots", 1, 1)
    every = list(space.genotypes())
    scores = val_scores(data, every, weights)
    found, score = best_of(every[:1], candidates, "slots", data, weights, count=10_000)
    assert scores[every.index(found)] == score == scores.max()
    assert scores[0] < scores.max()


def test_a_limit_counts_what_is_compared_and_the_drawn_ones_come_first(searched, monkeypatch):
    data, weights = searched
    space, candidates = space_of("slots", 1, 1)
    every = list(space.genotypes())
    compared = []

    def counted(data, genotypes, weights):
        compared.extend(genotypes)
        return val_scores(data, genotypes, weights)

    monkeypatch.setattr("nas.scoring.val_scores", counted)
    best_of([*every[:4], *every[:4]], candidates, "slots", data, weights, count=14)
    assert compared[:4] == every[:4]
    assert len(set(compared)) == len(compared) == 14
    scores = val_scores(data, compared[:4], weights).tolist()
    best = compared[scores.index(max(scores))]
    beside = [g for g in neighbours(best, candidates, "slots") if g not in compared[:4]]
    assert compared[4 : 4 + len(beside)] == beside
