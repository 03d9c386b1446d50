"""A step as one graph: nothing in it waits or is of Python, so replays are the steps. Acted on the CPU, see tape."""

import pytest
import torch

import nas
from nas.baselines import DESIGNS
from nas.captured import WARM_UP
from nas.data import prepare
from nas.primitives import OPERATIONS
from nas.searching import Search
from nas.space import Space
from nas.training import Training, fixed_network

from .synthetic import HERE, noise, with_views
from .tape import act, waits

pytestmark = pytest.mark.skipif(HERE.type != "cpu", reason="acted on the CPU; a GPU has tests/gpu")

SMALL = {"channels": 4, "batch_size": 7, "samples": 3, "warmup_epochs": 2, "restart_epochs": 1}
SETTINGS = {
    "defaults": [{}] * 2,
    "warm-up": [{}] * 2,
    "single level": [{"level": "single", "head": "flatten", "space": "bmnas", "weight_mix": "samples"}] * 2,
    "weighed": [{"entropy_weight": 0.1, "cost_weight": 0.2}, {"entropy_weight": -0.3}],
    "published": [{"estimator": "published"}] * 2,
    "own settings": [
        {"estimator": "gumbel_rao", "weight_lr": 1e-2},
        {"arch_lr": 0.1, "weight_lr_min": 1e-3},
        {"estimator": "softmax", "weight_decay": 0.1, "arch_beta": 0.5},
    ],
    "every operation": [{"operations": tuple(OPERATIONS)}] * 2,
}


def begun(name):
    """A search over features with views and gaps whose next step is no longer one of the first."""
    features, labels, split = with_views(noise(windows=44, length=3), 3, strength=1.0)
    features["audio/l0"][:, ::5] = 0.0
    data = prepare(features, labels, split, None, reads="train_val")
    configs = [nas.SearchConfig(**SMALL, **changes) for changes in SETTINGS[name]]
    state = Search(data, configs, tuple(range(3, 3 + len(configs))))
    state.weight_optimiser.adam.most_held = 300  # weights move in several parts, as large ones do
    return state, name != "warm-up"


def held(state):
    """Everything that a step changes."""
    moments = [*state.weight_optimiser.adam.moments, *state.arch_optimiser.moments]
    return [*state.supernet.state_dict().values(), *(x for both in moments for x in both)]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_step_waits_for_nothing(name):
    state, searching = begun(name)
    for _ in range(2):
        state.step(searching=searching)
    assert waits(lambda: state.step(searching=searching)) == set()


def test_what_waits_is_found():
    """Or the test above would show nothing: a gradient that counts zeros, too."""
    x = torch.arange(4.0, requires_grad=True)
    for action in (
        lambda: x.sum().item(),
        lambda: x[x > 1],
        lambda: torch.tensor([1.0]),
        lambda: x[[0, 2]],
        lambda: torch.stack([x, x]).prod(0).sum().backward(),
        lambda: torch.equal(x, x),
    ):
        assert waits(action)


@pytest.mark.parametrize("name", SETTINGS)
def test_replays_are_the_steps(monkeypatch, name):
    """To the bit, over new passes through the train split, restarts of the schedule and another temperature."""
    (eager, searching), (replayed, _) = begun(name), begun(name)
    replayed.captured.stream = act(monkeypatch)
    returned = []
    for number in range(WARM_UP + 8):
        if number == WARM_UP + 4:
            for state in (eager, replayed):
                for group in state.choosers.groups:
                    group.temperature.mul_(0.7)
        returned.append([state.step(searching=searching) for state in (eager, replayed)])
        assert all(map(torch.equal, held(replayed), held(eager)))
    assert replayed.captured.graph is not None
    for expected, found in returned:  # by now: a replay does not change what an earlier one gave
        assert all(map(torch.equal, found, expected))
    assert len({str(loss.tolist()) for _, (loss, _) in returned}) == len(returned)


def test_a_search_changes_graphs_when_its_choices_begin_to_train(monkeypatch):
    """Its curves are the same, whatever is computed between two epochs."""
    (eager, _), (replayed, _) = begun("defaults"), begun("defaults")
    replayed.captured.stream = act(monkeypatch)
    graphs = []
    for epoch in range(5):
        assert replayed.epoch(epoch) == eager.epoch(epoch)
        graphs.append(replayed.captured.graph)
    assert None not in graphs
    assert [graph is graphs[0] for graph in graphs] == [True] * 2 + [False] * 3
    assert [graph is graphs[-1] for graph in graphs] == [False] * 2 + [True] * 3


def waiting(state, where):
    """Has something read a value back in the middle of a step."""

    def read(x):
        x.sum().item()

    if where == "choices":
        asked = state._entropy
        state._entropy = lambda: (asked(), read(torch.ones(2)))[0]
    elif where == "forward":
        state.supernet.fusion.cells[1].register_forward_pre_hook(lambda _, inputs: read(inputs[0]))
    else:
        state.supernet.fusion.cells[0].register_forward_hook(lambda _, __, out: read_later(out))

        def read_later(out):
            out.register_hook(read)


@pytest.mark.parametrize("where", ["forward", "backward", "choices"])
def test_what_cannot_be_captured_goes_on_as_it_is_written(monkeypatch, where):
    """Nothing of the capture that failed is left: half of its dropout was read, and half of its gradients held."""
    (eager, _), (other, _) = begun("weighed"), begun("weighed")
    other.captured.stream = act(monkeypatch)
    waiting(other, where)
    for number in range(WARM_UP + 3):
        expected = eager.step(searching=True)
        if number == WARM_UP:
            with pytest.warns(UserWarning, match=r"could not be captured .*a value is read back"):
                found = other.step(searching=True)
        else:
            found = other.step(searching=True)
        assert all(map(torch.equal, found, expected))
        assert all(map(torch.equal, held(other), held(eager)))
    assert other.captured.graph is None


TRAININGS = ("one seed", "own seeds", *DESIGNS)


def begun_training(name):
    """Trainings of several architectures, or of a design, whose weights move in several parts."""
    features, labels, split = with_views(noise(windows=44, length=3), 3, strength=1.0)
    features["audio/l0"][:, ::5] = 0.0
    data = prepare(features, labels, split, None, reads="all")
    config = nas.RetrainConfig(channels=4, batch_size=7, restart_epochs=1)
    seeds = (3,) * 4 if name == "one seed" else (3, 4, 5, 6)
    if name in DESIGNS:
        network = DESIGNS[name](data.in_channels, channels=4, length=data.length, seeds=seeds)
    else:
        drawn = Space(tuple(features), 2, 2).sample(4, seed=0)
        network = fixed_network(data, config, drawn, seeds)
    state = Training(data, config, network, seeds)
    state.optimiser.adam.most_held = 300
    return state


def held_by(state):
    """Everything that a step of a training changes."""
    return [*state.network.state_dict().values(), *(x for both in state.optimiser.adam.moments for x in both)]


@pytest.mark.parametrize("name", TRAININGS)
def test_a_step_of_training_waits_for_nothing(name):
    state = begun_training(name)
    for _ in range(2):
        state.step()
    assert waits(state.step) == set()


@pytest.mark.parametrize("name", TRAININGS)
def test_replays_are_the_steps_of_training(monkeypatch, name):
    """To the bit, and still when runs have left, where they can: the graph is then another one."""
    eager, replayed = begun_training(name), begun_training(name)
    replayed.captured.stream = act(monkeypatch)
    graphs, returned = [], []
    for _ in range(2):
        for _ in range(WARM_UP + 6):
            returned.append([state.step() for state in (eager, replayed)])
            assert all(map(torch.equal, held_by(replayed), held_by(eager)))
        graphs.append(replayed.captured.graph)
        for state in (eager, replayed):
            state.active = [True, False, True, False]
            state.let_go()
    assert None not in graphs
    assert (graphs[0] is graphs[1]) == (name != "one seed")
    for expected, found in returned:
        assert torch.equal(found, expected)
    assert len({str(found.tolist()) for _, found in returned}) == len(returned)
