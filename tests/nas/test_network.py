"""The supernet: two parameter sets, gradients through every site, and the compact network cut out of it."""

import pytest
import torch
import torch.nn.functional as F

from nas import Cell, CompactNetwork, Genotype, SearchConfig, Step
from nas.choices import Choosers
from nas.layers import EVALUATION, Pass
from nas.network import Supernet
from nas.random import Dropout
from nas.space import Space

from .mixes import fixed_mix
from .synthetic import HERE

WIDTHS = {"visual/a.0": 6, "visual/b": 5, "audio/a.0": 7, "audio/b": 4}
R, B, C, L = 3, 10, 8, 4


def supernet(space="slots", *, cells=2, steps=2, widths=None, channels=C, length=L, seeds=range(R), head="mean"):
    widths = widths or WIDTHS
    return Supernet(
        Space(tuple(widths), cells, steps, space),
        widths,
        channels=channels,
        length=length,
        seeds=list(seeds),
        head=head,
    )


def features(runs=R, seed=0):
    source = torch.Generator().manual_seed(seed)
    return {name: torch.randn(runs, B, L, width, generator=source) for name, width in WIDTHS.items()}


def sample(network, estimator="st_gumbel", samples=1, seeds=range(R)):
    config = SearchConfig(estimator=estimator, samples=samples, temperature=10.0)
    seeds = list(seeds)
    return network.architecture.sample(Choosers([config] * len(seeds), seeds, HERE))


def weights_of(network, run):
    return {name: value[run : run + 1] for name, value in network.fusion.state_dict().items()}


def randomise_architecture(network):
    torch.manual_seed(7)
    for parameter in network.architecture.parameters():
        parameter.data.normal_()


@pytest.mark.parametrize("space", ["slots", "bmnas"])
def test_state_holds_weights_and_architecture_as_two_disjoint_sets(space):
    """Defects 2 and 3: architecture parameters missing from the state, reshape layers from the optimiser."""
    network = supernet(space)
    weights = {id(p) for p in network.fusion.parameters()}
    architecture = {id(p) for p in network.architecture.parameters()}
    assert not weights & architecture
    assert weights | architecture == {id(p) for p in network.parameters()}
    state = network.state_dict()
    assert {"architecture.alpha.0", "architecture.alpha.1", "architecture.beta.1", "architecture.gamma"} <= set(state)
    named = {id(p): name for name, p in network.named_parameters()}
    assert sum(named[i].startswith("fusion.reshape.") for i in weights) == 3 * len(WIDTHS)
    assert all(value.shape[0] == R for value in state.values()), "everything carries the runs axis"


@pytest.mark.parametrize("space", ["slots", "bmnas"])
@pytest.mark.parametrize("estimator", ["softmax", "gumbel", "st_gumbel", "gumbel_rao"])
def test_every_logit_and_every_weight_gets_a_gradient(space, estimator):
    network = supernet(space)
    mix = sample(network, estimator, 4)
    logits = network(features(), mix, Pass("batch"))
    assert logits.shape == (R, B, 2)
    (logits[..., 1] * torch.randn(R, B)).sum().backward()
    # Behind a hard choice of another candidate some sites have no effect in some runs.
    least = 0.9 if estimator in ("softmax", "gumbel") else 0.3
    for name, parameter in network.architecture.named_parameters():
        gradient = parameter.grad.flatten(1)
        assert (gradient.abs() > 0).float().mean() > least, name
    if estimator in ("softmax", "gumbel"):
        missing = [n for n, p in network.named_parameters() if p.grad is None or not (p.grad != 0).any()]
        assert missing == []


def test_a_hard_sample_of_slots_is_one_hot_at_every_site():
    mix = sample(supernet("slots"))
    for cell in mix:
        for weights in (cell.inputs, *cell.steps, *cell.operations):
            assert ((weights == 0) | (weights == 1)).all()
            assert (weights.sum(-1) == 1).all()


def test_the_mixture_of_bmnas_feeds_both_slots():
    mix = sample(supernet("bmnas"), "softmax")
    assert mix[0].inputs.shape == (R, 1, 4)
    torch.testing.assert_close(mix[0].inputs, torch.full((R, 1, 4), 0.5), atol=2e-3, rtol=0)


@pytest.mark.parametrize("space", ["slots", "bmnas"])
def test_compact_network_equals_the_supernet_with_its_choices_fixed(space):
    network = supernet(space)
    randomise_architecture(network)
    genotypes = network.architecture.derive()
    assert len(set(genotypes)) == R
    mix = fixed_mix(network.fusion.space, genotypes, HERE)
    for seed in range(4):
        network(features(seed=seed), mix, Pass("track", Dropout(range(R), 0.2, HERE)))
    inputs = features(runs=1, seed=9)
    with torch.no_grad():
        expected = network(inputs, mix, EVALUATION)
        for run, genotype in enumerate(genotypes):
            compact = CompactNetwork.from_weights(genotype, weights_of(network, run), WIDTHS)
            given = {name: inputs[name][0] for name in genotype.layers()}
            torch.testing.assert_close(compact(given), expected[run], rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(compact.predict(given), expected[run].softmax(-1)[:, 1], rtol=1e-6, atol=1e-6)
            assert sum(p.numel() for p in compact.parameters()) < sum(p[run].numel() for p in network.parameters())


@pytest.mark.parametrize("head", ["mean", "flatten"])
def test_a_derived_network_computes_the_formulas_of_the_design(head):
    """One cell written out: weighted steps, 1x1 convolution block, residual, layer norm, classifier."""
    steps = (Step(x="y", y="x", operation="Sum"), Step(x="step1", y="y", operation="ScaledDotAttn"))
    genotype = Genotype(cells=(Cell(x="audio/b", y="visual/b", steps=steps),))
    network = CompactNetwork(genotype, WIDTHS, channels=C, length=L, head=head)
    torch.manual_seed(3)
    for parameter in network.parameters():
        parameter.data = 0.5 * torch.randn_like(parameter)
    given = {name: x[0] for name, x in features().items()}
    p = {name.removeprefix("fusion."): value[0] for name, value in network.state_dict().items()}

    def block(x, name):
        x = torch.einsum("oc,bcl->bol", p[f"{name}.convolution.weight"], x)
        norm = (p[f"{name}.norm.{part}"] for part in ("running_mean", "running_variance", "weight", "bias"))
        return F.batch_norm(x, *norm).relu()

    x, y = (block(given[name].mT, f"reshape.{name}") for name in ("audio/b", "visual/b"))
    first = y + x
    attention = ((first.mT @ y) / C**0.5).softmax(-1) @ y.mT  # (B, L, C)
    name = "cells.0.steps.1.operations.ScaledDotAttn.norm"
    second = F.layer_norm(attention, (L, C), p[f"{name}.weight"], p[f"{name}.bias"]).mT
    weights = p["cells.0.step_weights"][0]
    cell = block(weights[0] * first + weights[1] * second, "cells.0.output") + x
    cell = F.layer_norm(cell.mT, (L, C), p["cells.0.norm.weight"], p["cells.0.norm.bias"])
    hidden = F.layer_norm(cell, (L, C)).relu()
    hidden = hidden.flatten(1) if head == "flatten" else hidden.mean(1)
    torch.testing.assert_close(network(given), hidden @ p["classifier.weight"].T + p["classifier.bias"])


def test_a_derived_genotype_takes_the_most_probable_choices():
    network = supernet("slots", cells=2, steps=2)
    alpha, beta, gamma = network.architecture.alpha, network.architecture.beta, network.architecture.gamma
    alpha[0].data[0, 0, 1], alpha[0].data[0, 1, 2] = 5.0, 5.0
    # The second cell would like the same pair the other way round: it must settle for its next best.
    alpha[1].data[0, 0, 2], alpha[1].data[0, 1, 1], alpha[1].data[0, 1, 4] = 5.0, 5.0, 4.0
    beta[1].data[0, 1, 0, 2], beta[1].data[0, 1, 1, 2], beta[1].data[0, 1, 1, 1] = 5.0, 5.0, 4.0
    gamma.data[0, 1, 1, 2] = 5.0
    genotype = network.architecture.derive()[0]
    assert (genotype.cells[0].x, genotype.cells[0].y) == ("visual/b", "audio/a.0")
    assert (genotype.cells[1].x, genotype.cells[1].y) == ("audio/a.0", "cell1")
    step = genotype.cells[1].steps[1]
    assert (step.x, step.y, step.operation) == ("step1", "y", "LinearGLU")


def test_bmnas_keeps_the_two_edges_with_the_largest_skip_probability():
    network = supernet("bmnas")
    alpha = network.architecture.alpha
    alpha[0].data[0] = torch.tensor([[0.0, 1.0], [0.0, 3.0], [9.0, 9.0], [0.0, 2.0]])
    genotype = network.architecture.derive()[0]
    assert {genotype.cells[0].x, genotype.cells[0].y} == {"visual/b", "audio/b"}


def test_entropies_are_one_for_uniform_choices_and_zero_for_settled_ones():
    network = supernet()
    for parameter in network.architecture.parameters():
        parameter.data.zero_()
    for value in network.architecture.entropies().values():
        torch.testing.assert_close(value, torch.ones(R))
    for parameter in network.architecture.parameters():
        parameter.data[..., 0] = 200.0
    for value in network.architecture.entropies().values():
        torch.testing.assert_close(value, torch.zeros(R))


def test_probabilities_are_plain_and_sum_to_one():
    cells = supernet("slots").architecture.probabilities(1)
    assert cells[1]["inputs"] == [*WIDTHS, "cell1"]
    assert sum(cells[1]["x"]) == pytest.approx(1.0)
    assert cells[0]["steps"][1]["inputs"] == ["x", "y", "step1"]
    assert sum(cells[0]["steps"][1]["operations"].values()) == pytest.approx(1.0)
    assert [round(p, 2) for p in supernet("bmnas").architecture.probabilities(0)[0]["skip"]] == [0.5] * 4


def test_parameter_counts_are_those_of_the_reference_network_less_the_redundant_biases():
    """Counted in the released code: fusion 447,748, reshape layers 904,192 (taps of 7,040 channels, C = 128, L = 8).

    The reference has a bias in every convolution, which the batch norm behind it cancels (ours has none), and one
    fusion scalar less per cell.
    """
    taps = {"visual/1": 512, "visual/2": 1024, "visual/3": 2048, "visual/4": 2048}
    taps |= {"audio/1": 128, "audio/2": 256, "audio/3": 512, "audio/4": 512}
    assert sum(taps.values()) == 7040
    fusion = supernet(widths=taps, channels=128, length=8, seeds=[0], head="flatten").fusion
    counts = {name: p.numel() for name, p in fusion.named_parameters()}
    reshape = sum(n for name, n in counts.items() if name.startswith("reshape."))
    assert reshape == 904_192 - 8 * 128
    biases = 2 * (2 * (256 + 128) + 128)
    assert sum(counts.values()) - reshape == 447_748 + 2 - biases


def test_a_compact_network_is_built_again_from_its_description():
    network = supernet()
    randomise_architecture(network)
    genotype = network.architecture.derive()[0]
    compact = CompactNetwork.from_weights(genotype, weights_of(network, 0), WIDTHS)
    again = CompactNetwork.from_spec(compact.spec())
    again.load_state_dict(compact.state_dict(), strict=True)
    given = {name: x[0] for name, x in features().items()}
    assert torch.equal(again.predict(given), compact.predict(given))
    layer = genotype.layers()[0]
    with pytest.raises(ValueError, match="missing"):
        compact({name: x for name, x in given.items() if name != layer})
    with pytest.raises(ValueError, match=rf"allowed: \(B, {L}, {WIDTHS[layer]}\)"):
        compact({**given, layer: given[layer][..., :1]})
    with pytest.raises(ValueError, match="in_channels lacks"):
        CompactNetwork(genotype, {}, channels=C, length=L)


def test_a_description_without_a_head_is_of_a_flattened_one():
    genotype = supernet().architecture.derive()[0]
    spec = CompactNetwork(genotype, WIDTHS, channels=C, length=L, head="flatten").spec()
    assert CompactNetwork.from_spec({k: v for k, v in spec.items() if k != "head"}).spec() == spec
