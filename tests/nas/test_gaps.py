"""Windows that lack a modality: zeros stand in for it, and nothing hears them."""

import pytest
import torch

import nas
from nas.baselines import DESIGNS, train_design
from nas.data import prepare
from nas.layers import Pass
from nas.network import FixedNetwork, module_key
from nas.primitives import OPERATIONS
from nas.random import Dropout
from nas.scoring import shared_scores
from nas.space import Space

from .synthetic import HERE, noise
from .test_alone import same
from .test_network import WIDTHS, B, R, features, sample, supernet

AUDIO = [name for name in WIDTHS if name.startswith("audio/")]
MUTE = torch.arange(B) % 3 == 0


def mute(values, rows=MUTE):
    """The features (..., B, L, C), zeros of the sound of some windows."""
    lacking = rows[:, None, None]
    return {name: x.masked_fill(lacking, 0) if name.startswith("audio/") else x for name, x in values.items()}


def half_mute(windows=40, length=3):
    values, labels, split = noise(windows=windows, length=length)
    return mute(values, torch.arange(windows) % 4 < 2), labels, split


@pytest.mark.parametrize("statistics", ["running", "batch", "track"])
def test_what_is_not_there_comes_to_zero_and_moves_no_mean(statistics):
    network, beside = supernet().fusion, supernet().fusion
    torch.manual_seed(1)
    for block in network.reshape.values():
        block.norm.bias.data.normal_(1)
        block.norm.running_mean.normal_()
    beside.load_state_dict(network.state_dict())
    layers = network.reshaped(mute(features()), Pass(statistics, gaps=WIDTHS))
    beside.reshaped({name: x[:, ~MUTE] for name, x in features().items()}, Pass(statistics))
    for name, out in layers.items():
        assert (out[:, MUTE] == 0).all() == (name in AUDIO)
        assert out[:, ~MUTE].any(), "and nothing else"
    for name in AUDIO:
        ours, theirs = (of.reshape[module_key(name)].norm.running_mean for of in (network, beside))
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("statistics", ["running", "track"])
@pytest.mark.parametrize("space", ["slots", "bmnas"])
def test_windows_that_lack_nothing_are_scored_and_learnt_from_as_ever_to_the_bit(space, statistics):
    outcomes = []
    for gaps in ((), tuple(WIDTHS)):
        network = supernet(space)
        how = Pass(statistics, Dropout(range(R), 0.2, HERE), gaps)
        logits = network(features(), sample(network), how)
        logits.square().sum().backward()
        outcomes.append(
            (logits, {name: p.grad for name, p in network.named_parameters()}, dict(network.named_buffers()))
        )
    (logits, gradients, buffers), (beside, of_beside, tracked) = outcomes
    assert torch.equal(logits, beside)
    assert all(torch.equal(gradients[name], of_beside[name]) for name in gradients if gradients[name] is not None)
    assert same(buffers, tracked)


def test_data_know_which_layers_are_lacking_somewhere():
    values, labels, split = half_mute()
    assert prepare(values, labels, split, None, reads="all").gaps == {"audio/l0", "audio/l1"}
    assert prepare(*noise(), None, reads="all").gaps == set()
    of_test = mute(noise(windows=40)[0], torch.tensor([name == "test" for name in split]))
    assert prepare(of_test, labels, split, None, reads="train_val").gaps == set(), "nobody reads those"
    assert prepare(of_test, labels, split, None, reads="all").gaps == {"audio/l0", "audio/l1"}


@pytest.mark.parametrize("changes", [{}, {"space": "bmnas", "weight_mix": "samples", "operations": tuple(OPERATIONS)}])
def test_a_search_over_mute_windows_finds_what_it_finds_alone(changes):
    config = nas.SearchConfig(
        channels=9, batch_size=7, min_steps_per_epoch=1, candidates=8, warmup_epochs=1, epochs=3, **changes
    )
    data = half_mute()
    together = nas.search(*data, config, range(3), keep_weights=True)
    for seed, beside in enumerate(together):
        (alone,) = nas.search(*data, config, (seed,), keep_weights=True)
        assert (alone.curves, alone.genotype) == (beside.curves, beside.genotype)
        assert same(alone.weights, beside.weights)
    first = together[0]
    assert shared_scores(*data, [first.genotype], first.weights).item() == pytest.approx(first.score)


@pytest.mark.parametrize("seeds", [(5,) * 4, range(4)], ids=["one seed", "own seeds"])
def test_a_training_on_mute_windows_gives_what_it_gives_alone_and_what_its_network_scores(seeds):
    data = half_mute(41)
    genotypes = Space(tuple(data[0]), steps=2, operations=tuple(OPERATIONS)).sample(4, 3)
    config = nas.RetrainConfig(channels=9, epochs=3, batch_size=7, min_steps_per_epoch=2)
    for genotype, seed, beside in zip(genotypes, seeds, nas.retrain(*data, genotypes, config, seeds), strict=True):
        (alone,) = nas.retrain(*data, genotype, config, (seed,))
        assert alone.curves == beside.curves
        assert torch.equal(alone.scores, beside.scores)
        torch.testing.assert_close(beside.network.predict(data[0]), beside.scores, atol=1e-6, rtol=0)


def test_a_network_of_sound_alone_knows_nothing_of_windows_without():
    values, labels, split = half_mute()
    audio = {name: x for name, x in values.items() if name.startswith("audio/")}
    genotype = Space(tuple(audio), steps=1).sample(1, 0)[0]
    (result,) = nas.retrain(audio, labels, split, genotype, nas.RetrainConfig(channels=8, epochs=3), (0,))
    without = torch.arange(40) % 4 < 2
    assert result.scores[without].unique().numel() == 1
    assert result.scores[~without].unique().numel() > 10


@pytest.mark.parametrize("design", DESIGNS)
def test_designs_leave_out_what_is_not_there(design):
    data = half_mute(41)
    config = nas.RetrainConfig(channels=9, epochs=3, batch_size=7)
    together = train_design(*data, design, config, range(3))
    for seed, beside in enumerate(together):
        (alone,) = train_design(*data, design, config, (seed,))
        assert torch.equal(alone.scores, beside.scores)
        assert torch.isfinite(alone.scores).all()


def test_fixed_networks_leave_out_what_is_not_there():
    """Learnt from windows with sound, what a block adds to nothing still is nothing."""
    genotypes = Space(tuple(WIDTHS), steps=2).sample(R, 0)
    network = FixedNetwork(genotypes, WIDTHS, channels=8, length=4, seeds=range(R))
    torch.manual_seed(2)
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.add_(torch.rand_like(buffer))
    shared = mute({name: x[:1] for name, x in features().items()})
    layers = network.reshaped(shared, Pass(gaps=WIDTHS))
    for name in network.readers:
        assert (layers[name][:, MUTE] == 0).all() == (name in AUDIO)
