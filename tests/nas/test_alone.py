"""A run's result is what it is alone, to the bit: it does not depend on the runs that share its batch."""

import pytest
import torch

import nas
from nas.baselines import DESIGNS, train_design
from nas.primitives import OPERATIONS
from nas.space import Space

from .synthetic import noise

SEEDS = range(20, 28)


def same(one, other):
    """Whether two tensors, or nested dicts of them, are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one == other


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"space": "bmnas", "channels": 9, "weight_mix": "samples", "operations": tuple(OPERATIONS), "epochs": 4},
        {
            "estimator": "gumbel_rao",
            "cost_weight": 0.1,
            "entropy_weight": 0.1,
            "channels": 12,
            "batch_size": 7,
            "epochs": 8,
        },
        {"cost_weight": 3.0, "samples": 3, "epochs": 12},
        {"estimator": "gumbel", "cells": 1, "steps": 3, "channels": 1, "epochs": 8},
    ],
    ids=["defaults", "bmnas", "gumbel_rao", "costs", "gumbel"],
)
def test_a_search_finds_what_it_finds_alone(changes):
    config = nas.SearchConfig(
        **{"channels": 8, "min_steps_per_epoch": 2, "candidates": 16, "warmup_epochs": 3, **changes}
    )
    data = noise(windows=40, length=3)
    together = nas.search(*data, config, SEEDS, keep_weights=True)
    for seed, beside in zip(SEEDS, together, strict=True):
        (alone,) = nas.search(*data, config, (seed,), keep_weights=True)
        assert alone.curves == beside.curves
        assert alone.history == beside.history
        assert alone.genotype == beside.genotype
        assert same(alone.weights, beside.weights)
    assert len({str(result.curves) for result in together}) == len(SEEDS)


def test_searches_of_different_settings_find_what_they_find_alone():
    small = {"channels": 8, "min_steps_per_epoch": 2, "candidates": 8, "warmup_epochs": 2, "epochs": 10}
    changes = [{}, {"estimator": "softmax"}, {"samples": 2, "weight_lr": 0.01}, {"estimator": "gumbel", "arch_lr": 0.1}]
    configs = [nas.SearchConfig(**small, **of_run) for of_run in changes]
    data = noise(windows=40, length=3)
    together = nas.search(*data, configs, (1, 2, 1, 4), keep_weights=True)
    for config, seed, beside in zip(configs, (1, 2, 1, 4), together, strict=True):
        (alone,) = nas.search(*data, config, (seed,), keep_weights=True)
        assert alone.curves == beside.curves
        assert alone.genotype == beside.genotype
        assert same(alone.weights, beside.weights)


@pytest.mark.parametrize("seeds", [(5,) * 8, range(8)], ids=["one seed", "own seeds"])
@pytest.mark.parametrize("channels", [9, 16])
def test_a_training_gives_what_it_gives_alone(seeds, channels):
    data = noise(windows=41, length=3)
    genotypes = Space(tuple(data[0]), steps=2, operations=tuple(OPERATIONS)).sample(8, 3)
    config = nas.RetrainConfig(channels=channels, epochs=6, patience=2, batch_size=7, min_steps_per_epoch=2)
    together = nas.retrain(*data, genotypes, config, seeds)
    for genotype, seed, beside in zip(genotypes, seeds, together, strict=True):
        (alone,) = nas.retrain(*data, genotype, config, (seed,))
        assert alone.curves == beside.curves
        assert torch.equal(alone.scores, beside.scores)
        assert same(alone.network.state_dict(), beside.network.state_dict())


@pytest.mark.parametrize("design", DESIGNS)
def test_a_design_gives_what_it_gives_alone(design):
    data = noise(windows=41, length=3)
    config = nas.RetrainConfig(channels=9, epochs=4, batch_size=7)
    together = train_design(*data, design, config, range(5))
    for seed, beside in enumerate(together):
        (alone,) = train_design(*data, design, config, (seed,))
        assert alone.curves == beside.curves
        assert torch.equal(alone.scores, beside.scores)
