"""Networks of different genotypes side by side: each computes what it computes alone, and holds no more."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas import Cell, CompactNetwork, Genotype, Step
from nas.layers import EVALUATION, Pass
from nas.network import FixedNetwork, FusionNetwork
from nas.space import Space

from .mixes import fixed_mix
from .synthetic import HERE

WIDTHS = {"visual/a.0": 6, "visual/b": 5, "audio/a.0": 7, "audio/b": 4}
B, C, L = 10, 8, 4
SPACE = Space(tuple(WIDTHS), cells=2, steps=2)


def network(genotypes, seeds):
    return FixedNetwork(genotypes, WIDTHS, channels=C, length=L, seeds=seeds)


def inputs(net, windows):
    return {name: windows[name].expand(len(runs), -1, -1, -1) for name, runs in net.readers.items()}


def windows(seed=0):
    source = torch.Generator().manual_seed(seed)
    return {name: torch.randn(1, B, L, width, generator=source) for name, width in WIDTHS.items()}


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), runs=st.integers(1, 7))
def test_a_batch_of_genotypes_equals_each_alone(seed, runs):
    genotypes = SPACE.sample(runs, seed)
    together = network(genotypes, range(runs))
    x = windows(seed)
    logits = together(inputs(together, x), Pass("track"))
    (logits.square().sum(dim=(1, 2))).sum().backward()
    for r, genotype in enumerate(genotypes):
        alone = network([genotype], [r])
        expected = alone(inputs(alone, x), Pass("track"))
        torch.testing.assert_close(logits[r : r + 1], expected, rtol=0, atol=1e-5)
        expected.square().sum().backward()
        for name, value in together.state_of(r).items():
            torch.testing.assert_close(value, alone.state_dict()[name], rtol=0, atol=1e-5)
        for name, parameter in alone.named_parameters():
            row = together.runs_of(name).index(r)
            gradient = together.get_parameter(name).grad[row : row + 1]
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-5)


def test_a_block_holds_only_the_runs_that_use_it():
    genotypes = SPACE.sample(12, 0)
    together = network(genotypes, range(12))
    alone = sum(sum(p.numel() for p in network([g], [0]).parameters()) for g in genotypes)
    assert sum(p.numel() for p in together.parameters()) == alone
    for layer, readers in together.readers.items():
        assert readers == tuple(r for r, g in enumerate(genotypes) if layer in g.layers())


def test_shared_weights_give_what_the_supernet_gives():
    genotypes = SPACE.sample(6, 3)
    space = Space(tuple(WIDTHS), 2, 2)
    supernet = FusionNetwork(space, WIDTHS, channels=C, length=L, seeds=(5,))
    x = windows()
    weights = {name: value.detach() for name, value in supernet.state_dict().items()}
    shared = FixedNetwork.share(genotypes, weights, WIDTHS)
    with torch.no_grad():
        logits = shared(x, EVALUATION)
        for r, genotype in enumerate(genotypes):
            expected = supernet(x, fixed_mix(space, [genotype], HERE), EVALUATION)
            torch.testing.assert_close(logits[r : r + 1], expected, rtol=1e-5, atol=1e-6)
            compact = CompactNetwork.from_weights(genotype, weights, WIDTHS)
            given = {name: value[0] for name, value in x.items()}
            torch.testing.assert_close(compact(given), expected[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gaps", [(), tuple(WIDTHS)])
def test_architectures_under_one_runs_weights_reshape_a_layer_once(gaps):
    """And give to the bit what each would give that has them for itself."""
    genotypes = SPACE.sample(6, 3)
    supernet = FusionNetwork(Space(tuple(WIDTHS), 2, 2), WIDTHS, channels=C, length=L, seeds=(5,))
    weights = {name: value.detach() for name, value in supernet.state_dict().items()}
    own = {name: value.expand(6, *value.shape[1:]) for name, value in weights.items()}
    once, each = (FixedNetwork.share(genotypes, of, WIDTHS) for of in (weights, own))
    assert {len(block.convolution.weight) for block in once.reshape.values()} == {1}
    x = windows()
    for value in x.values():
        value[:, ::3] = 0.0
    for statistics in ("running", "batch"):
        with torch.no_grad():
            logits = [network(x, Pass(statistics, gaps=gaps)) for network in (once, each)]
        assert torch.equal(*logits)


def test_the_runs_at_every_place_with_dropout():
    steps = {name: (Step(x="x", y="y", operation=name),) for name in ("Sum", "CrossGate")}
    genotypes = [Genotype(cells=(Cell(x="visual/a.0", y="audio/b", steps=steps[n]),)) for n in ("Sum", "CrossGate")]
    places = network(genotypes, (0, 0)).runs_of
    assert places("visual/a.0") == places("cell1") == (0, 1)
    assert places("cell1.step1.CrossGate") == places("cell1.step1.CrossGate.inner") == (1,)
