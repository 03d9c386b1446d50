"""Searches and trainings on the device give what they give on the CPU. Without --device, the CPU is held to itself."""

from collections.abc import Callable

import pytest
import torch

import nas
from nas.baselines import train_design
from nas.captured import WARM_UP
from nas.data import prepare
from nas.functions import multiplying
from nas.memory import search_memory
from nas.scoring import shared_scores
from nas.searching import Search
from nas.space import Space
from nas.training import Training, fixed_network
from tests.nas.problems import xor
from tests.nas.synthetic import noise

Record = Callable[[str, object], None]


@pytest.mark.parametrize("space", ["slots", "bmnas"])
@pytest.mark.parametrize("estimator", ["st_gumbel", "gumbel_rao"])
def test_one_step_moves_everything_as_on_the_cpu(
    device: str, space: str, estimator: str, record_property: Record
) -> None:
    """Losses, gradients' norms, weights, statistics and choices after a step with dropout, of two runs."""
    config = nas.SearchConfig(space=space, estimator=estimator, channels=16, batch_size=16, dropout=0.2, samples=3)
    states = []
    for where in ("cpu", device):
        data = prepare(*noise(windows=96), where, reads="train_val")
        search = Search(data, [config] * 2, (0, 1))
        loss, norm = search.step(searching=True)
        assert loss.device.type == torch.device(where).type
        states.append(
            {"loss": loss.cpu(), "norm": norm.cpu()} | {n: x.cpu() for n, x in search.supernet.state_dict().items()}
        )
    differences = []
    for name, expected in states[0].items():
        torch.testing.assert_close(states[1][name], expected, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
        differences.append((states[1][name] - expected).abs().max().item())
    record_property(
        f"largest difference after one step ({space}, {estimator})", f"{max(differences):.3g} ; at most 1e-4"
    )


@pytest.mark.parametrize("searching", [False, True])
def test_a_graph_of_a_step_gives_what_its_kernels_give(device: str, searching: bool, record_property: Record) -> None:
    """After steps that are replayed, of runs with settings of their own; without a GPU nothing is."""
    changes = ({"cost_weight": 0.1}, {"estimator": "gumbel_rao", "weight_lr": 1e-2}, {"estimator": "softmax"})
    configs = [nas.SearchConfig(channels=16, batch_size=16, samples=3, restart_epochs=1, **of) for of in changes]
    data = prepare(*noise(windows=96), device, reads="train_val")
    replayed, launched = (Search(data, configs, (0, 1, 2)) for _ in range(2))
    launched.captured.stream = None
    for _ in range(WARM_UP + 5):
        found, expected = (torch.stack(of.step(searching=searching)) for of in (replayed, launched))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (replayed.captured.graph is not None) == (device != "cpu")
    states = [of.supernet.state_dict() for of in (replayed, launched)]
    worst = max((x - states[1][name]).abs().max().item() for name, x in states[0].items())
    record_property(f"largest difference after five replays (searching: {searching})", f"{worst:.3g} ; at most 1e-4")
    assert worst <= 1e-4


@pytest.mark.parametrize("seeds", [(0, 0, 0, 0), (0, 1, 2, 3)])
def test_a_graph_of_a_step_of_training_gives_what_its_kernels_give(
    device: str, seeds: tuple[int, ...], record_property: Record
) -> None:
    """Of several architectures, also once runs of one seed have left."""
    data = prepare(*noise(windows=96), device, reads="all")
    config = nas.RetrainConfig(channels=16, batch_size=16, restart_epochs=1)
    drawn = Space(tuple(data.features), 2, 2).sample(len(seeds), 0)
    replayed, launched = (Training(data, config, fixed_network(data, config, drawn, seeds), seeds) for _ in range(2))
    launched.captured.stream = None
    for _ in range(2):
        for _ in range(WARM_UP + 5):
            torch.testing.assert_close(replayed.step(), launched.step(), rtol=1e-4, atol=1e-4)
        assert (replayed.captured.graph is not None) == (device != "cpu")
        for of in (replayed, launched):
            of.active = [True, False, True, False]
            of.let_go()
    worst = max(
        (x - launched.network.state_dict()[n]).abs().max().item() for n, x in replayed.network.state_dict().items()
    )
    record_property(
        f"largest difference after replayed steps of training (seeds {seeds})", f"{worst:.3g} ; at most 1e-4"
    )
    assert worst <= 1e-4


def test_a_step_in_tf32_is_nearly_that_in_float32(device: str, record_property: Record) -> None:
    data, config = prepare(*noise(windows=96), device, reads="train_val"), nas.SearchConfig(channels=16, batch_size=16)
    found = []
    for precision in ("float32", "tf32"):
        with multiplying(precision):
            found.append(torch.stack(Search(data, [config], (0,)).step(searching=True)))
    worst = ((found[1] - found[0]) / found[0]).abs().max().item()
    record_property("difference of a step's loss and gradient in tf32", f"{worst:.3g} ; at most 0.05")
    assert worst <= 0.05


def test_whole_searches_pick_what_they_pick_on_the_cpu(device: str, record_property: Record) -> None:
    """On data where there is something to find; rounding, which a search magnifies, may cost one pick in ten."""
    count = 10 if device != "cpu" else 2
    problem = xor(0, windows=400)
    config = problem.config().model_copy(
        update={"epochs": 12, "warmup_epochs": 4, "restart_epochs": 4}
        if device != "cpu"
        else {"epochs": 2, "warmup_epochs": 1}
    )
    picks = []
    for where in ("cpu", device):
        results = nas.search(
            problem.features, problem.labels, problem.split, config.model_copy(update={"device": where}), range(count)
        )
        picks.append([result.genotype for result in results])
    same = sum(a == b for a, b in zip(*picks, strict=True))
    record_property("same picks on the device and the CPU", f"{same} of {count}; at least 9 of 10")
    assert same >= 0.9 * count


def test_everything_runs_where_its_config_says(device: str) -> None:
    """Features lie on the CPU; what comes out is on the CPU again, and the same."""
    data = noise(windows=48)
    config = nas.SearchConfig(
        cells=1, steps=1, channels=4, epochs=2, warmup_epochs=1, batch_size=16, derive="best_of", candidates=2
    )
    training = nas.RetrainConfig(channels=4, epochs=2, batch_size=16)
    (found,) = nas.search(*data, config.model_copy(update={"device": device}), (0,), keep_weights=True)
    judged = [member.genotype for member in found.members]
    scores = [shared_scores(*data, judged, found.weights, device=where) for where in ("cpu", device)]
    torch.testing.assert_close(*scores, rtol=1e-3, atol=1e-3)
    on_cpu, there = (
        nas.retrain(*data, judged[:1], training.model_copy(update={"device": where}), (0,))[0]
        for where in ("cpu", device)
    )
    torch.testing.assert_close(torch.as_tensor(there.scores), torch.as_tensor(on_cpu.scores), rtol=1e-2, atol=1e-2)
    (design,) = train_design(*data, "GMU", training.model_copy(update={"device": device}), (0,))
    assert not design.failed
    assert search_memory(prepare(*data, device, reads="train_val"), config).bytes_per_run > 0
