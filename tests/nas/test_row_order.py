"""Nothing depends on the order of the caller's rows, to the bit: searches, trainings, and scores by shared weights."""

import dataclasses

import pytest
import torch

import nas
from nas import scoring
from nas.scoring import shared_scores
from nas.space import Space

from .synthetic import noise, planted, with_views

SEARCH = nas.SearchConfig(
    channels=8, epochs=3, warmup_epochs=1, batch_size=8, min_steps_per_epoch=2, samples=2, candidates=24
)
TRAINING = nas.RetrainConfig(channels=8, epochs=3, batch_size=8, min_steps_per_epoch=2)


def reordered(data, order):
    """Return the same windows in another order: of features, labels and split together."""
    features, labels, split = data
    rows = torch.as_tensor(order)
    return (
        {name: x.index_select(x.ndim - 3, rows) for name, x in features.items()},
        labels[rows],
        [split[i] for i in order],
    )


def shuffled(data):
    order = torch.randperm(len(data[1]), generator=torch.Generator().manual_seed(1)).tolist()
    return reordered(data, order), order


def with_twins():
    """Return noise in which pairs of windows are equal in some layers, or in all, with equal or different labels."""
    features, labels, split = noise(windows=64)
    for x in features.values():
        x[1] = x[2]
        x[40] = x[43]
    for name in ("visual/l0", "visual/l1"):
        features[name][:24] = 0.0
    return features, labels, split


@pytest.mark.parametrize(
    "data", [noise(), with_twins(), with_views(noise(), 2, strength=1.0)], ids=["noise", "twins", "views"]
)
def test_a_search_finds_the_same_in_any_order_of_rows(data):
    first = nas.search(*data, SEARCH, seeds=(3, 4))
    again = nas.search(*shuffled(data)[0], SEARCH, seeds=(3, 4))
    assert [dataclasses.asdict(result) for result in again] == [dataclasses.asdict(result) for result in first]


def test_a_training_scores_every_window_the_same_in_any_order_of_rows():
    data = noise()
    genotype = Space(tuple(data[0]), cells=1, steps=2).sample(1, 0)[0]
    first = nas.retrain(*data, genotype, TRAINING, seeds=(3,))[0]
    other, order = shuffled(data)
    again = nas.retrain(*other, genotype, TRAINING, seeds=(3,))[0]
    assert again.curves == first.curves
    assert torch.equal(again.scores, first.scores[order])


@pytest.fixture(scope="module")
def trained():
    """Return a planted data set of 600 validation windows, and the shared weights of a short search over it."""
    data = planted(windows=2400, width=6)
    config = SEARCH.model_copy(update={"cells": 1, "steps": 1, "epochs": 6, "warmup_epochs": 5, "derive": "argmax"})
    return data, nas.search(*data, config, keep_weights=True)[0].weights


@pytest.mark.parametrize("rows", [scoring.JUDGED_ROWS, 200])
def test_scores_by_shared_weights_are_the_same_in_any_order_and_where_the_classes_lie_apart(trained, rows, monkeypatch):
    """In one piece, and in parts that are normalised by their own statistics."""
    monkeypatch.setattr(scoring, "JUDGED_ROWS", rows)
    data, weights = trained
    genotypes = list(Space(tuple(data[0]), steps=1, operations=("ConcatFC", "LinearGLU")).genotypes())[::7]
    scores = shared_scores(*data, genotypes, weights)
    by_class = sorted(range(len(data[1])), key=lambda row: int(data[1][row]))
    for order in (by_class, by_class[::-1], shuffled(data)[1]):
        assert torch.equal(shared_scores(*reordered(data, order), genotypes, weights), scores)
