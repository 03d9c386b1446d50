"""Building blocks against torch's own, run by run; dropout."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas.layers import EVALUATION, BatchNorm, ConvBlock, LayerNorm, Linear, Pass, Pointwise, initialise_blocks

R, B, L, C = 3, 6, 4, 5


@pytest.fixture
def x():
    return torch.randn(R, B, L, C, generator=torch.Generator().manual_seed(0))


def batch_norm(module: BatchNorm, run: int) -> nn.BatchNorm1d:
    """Return torch's batch norm with the parameters of one run."""
    reference = nn.BatchNorm1d(module.weight.shape[1])
    reference.weight.data, reference.bias.data = module.weight.data[run].clone(), module.bias.data[run].clone()
    return reference


def block(activation="relu", outputs=6, seeds=range(R)):
    module = ConvBlock(len(seeds), C, outputs, activation)
    initialise_blocks(module, lambda _: seeds)
    with torch.no_grad():
        module.norm.weight.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(1))
        module.norm.bias.normal_(generator=torch.Generator().manual_seed(2))
    return module


ACTIVATIONS = {"relu": F.relu, "identity": lambda z: z, "glu": lambda z: F.glu(z, dim=1)}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_convolution_block_trains_and_evaluates_as_torch_modules_do(x, activation):
    module = block(activation)
    references = []
    for r in range(R):
        convolution = nn.Conv1d(C, 12 if activation == "glu" else 6, 1, bias=False)
        convolution.weight.data = module.convolution.weight.data[r][..., None].clone()
        references.append(nn.Sequential(convolution, batch_norm(module.norm, r)))
    for step in range(3):
        given = x * (step + 1) + step
        out = module(given, how=Pass("track"), site="")
        target = torch.randn(out.shape, generator=torch.Generator().manual_seed(step))
        (out * target).sum().backward()
        for r, reference in enumerate(references):
            expected = ACTIVATIONS[activation](reference(given[r].mT))
            torch.testing.assert_close(out[r], expected.mT, rtol=1e-4, atol=1e-5)
            (expected.mT * target[r]).sum().backward()
            ours, theirs = module.convolution.weight.grad[r], reference[0].weight.grad[..., 0]
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(module.norm.weight.grad[r], reference[1].weight.grad, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(module.norm.bias.grad[r], reference[1].bias.grad, rtol=1e-4, atol=1e-4)
            reference.zero_grad()
        module.zero_grad()
    before = module.norm.running_mean.clone()
    module(x, how=Pass("batch"), site="")
    assert torch.equal(module.norm.running_mean, before), "only a tracking pass may move the statistics"
    for r, reference in enumerate(references):
        torch.testing.assert_close(module.norm.running_mean[r], reference[1].running_mean)
        torch.testing.assert_close(module.norm.running_variance[r], reference[1].running_var)
        expected = ACTIVATIONS[activation](reference.eval()(x[r].mT)).mT
        torch.testing.assert_close(module(x, how=EVALUATION, site="")[r], expected)


@pytest.mark.parametrize("how", [Pass("batch"), EVALUATION])
def test_several_inputs_are_read_as_one(x, how):
    parts = ConvBlock(R, 2 * C, 6)
    initialise_blocks(parts, lambda _: range(R))
    y = x.flip(1)
    whole = parts(torch.cat([x, y], 3), how=how, site="")
    torch.testing.assert_close(parts(x, y, how=how, site=""), whole)


def test_layer_norm(x):
    module = LayerNorm(R, C, L)
    module.weight.data.uniform_(0.5, 2.0)
    module.bias.data.normal_()
    out = module(x)
    for run in range(R):
        torch.testing.assert_close(out[run], F.layer_norm(x[run], (L, C), module.weight[run], module.bias[run]))


def test_linear(x):
    module = Linear(R, C, 2)
    initialise_blocks(module, lambda _: range(R))
    out = module(x[:, :, 0])
    for run in range(R):
        torch.testing.assert_close(out[run], F.linear(x[run, :, 0], module.weight[run], module.bias[run]))


def test_initial_values_depend_on_the_seed_and_the_name_only():
    alone = nn.ModuleDict({"b": Pointwise(1, 7, 5)})
    beside = nn.ModuleDict({"a": Pointwise(3, 4, 4), "b": Pointwise(3, 7, 5)})
    initialise_blocks(alone, lambda _: [11])
    initialise_blocks(beside, lambda _: [10, 11, 12])
    assert torch.equal(alone["b"].weight[0], beside["b"].weight[1])
    assert not torch.equal(beside["b"].weight[0], beside["b"].weight[1])
    twins = nn.ModuleDict({"a": Pointwise(1, 7, 5), "b": Pointwise(1, 7, 5)})
    initialise_blocks(twins, lambda _: [11])
    assert not torch.equal(twins["a"].weight, twins["b"].weight)
    assert alone["b"].weight.abs().max() <= 7**-0.5
