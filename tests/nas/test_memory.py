"""Memory of runs: what is measured grows with the runs as a real batch does."""

import pytest
import torch

import nas
from nas.data import prepare
from nas.halving import trial
from nas.memory import RunMemory, _LiveTensors, retrain_memory, search_memory
from nas.scoring import TOGETHER
from nas.space import Space

from .synthetic import noise

RETRAIN = nas.RetrainConfig(channels=16, batch_size=8)
SEARCH = nas.SearchConfig(channels=16, batch_size=8, samples=2)


def test_live_tensors_are_counted_until_they_are_freed():
    with _LiveTensors() as tensors:
        x = torch.zeros(1000)
        y = x + 1
        del x
        y[:10] + y.view(10, 100)[0, :10]
    assert tensors.peak == 8000
    with _LiveTensors() as tensors:
        total = torch.ones(1)
        for _ in range(5):
            total = total + torch.ones(1000).sum()
    assert tensors.peak < 4100


@pytest.mark.parametrize("same_seed", [True, False])
def test_a_batch_of_trainings_takes_what_two_runs_foretell(same_seed):
    data = prepare(*noise(), None, reads="all")
    genotype = Space(tuple(data.features), steps=2).sample(1, 0)[0]
    memory = retrain_memory(data, RETRAIN, genotype, same_seed=same_seed)
    parameters = sum(
        p.numel() for p in nas.CompactNetwork(genotype, data.in_channels, channels=16, length=4).parameters()
    )
    assert memory.bytes_per_run > 5 * 4 * parameters, "weights, gradients, two moments, the best state"
    from nas.training import Training, fixed_network

    with _LiveTensors() as tensors:
        seeds = (0,) * 9 if same_seed else tuple(range(9))
        state = Training(data, RETRAIN, fixed_network(data, RETRAIN, [genotype] * 9, seeds), seeds)
        state.step()
        state.evaluate(data.val)
    assert tensors.peak == pytest.approx(memory.base_bytes + 9 * memory.bytes_per_run, rel=0.05)


def test_searches_take_more_than_trainings_and_grow_with_channels():
    data = prepare(*noise(), None, reads="all")
    small, large = (search_memory(data, SEARCH.model_copy(update={"channels": c})).bytes_per_run for c in (16, 32))
    genotype = Space(tuple(data.features), steps=2).sample(1, 0)[0]
    assert retrain_memory(data, RETRAIN, genotype, same_seed=False).bytes_per_run < small < large


def test_architectures_that_are_judged_together_count_once_a_batch():
    data = prepare(*noise(), None, reads="all")
    activations = TOGETHER * len(data.val) * data.length * SEARCH.channels * 4
    assert search_memory(data, SEARCH).base_bytes > 4 * activations


def test_candidates_that_are_really_trained_count_once_a_run():
    data = prepare(*noise(), None, reads="all")
    with_trials = SEARCH.model_copy(update={"members": 2, "rungs": (1, 1)})
    plain, more = (search_memory(data, config) for config in (SEARCH, with_trials))
    assert with_trials.begun == 8
    with _LiveTensors() as tensors:
        state = trial(data, Space(tuple(data.features), steps=2).sample(8, 0), with_trials)
        state.step()
    assert more.bytes_per_run > plain.bytes_per_run + 0.5 * tensors.peak


def test_what_fits():
    memory = RunMemory(base_bytes=100, bytes_per_run=10)
    assert [memory.fitting(n) for n in (50, 105, 110, 1000)] == [0, 0, 1, 90]
