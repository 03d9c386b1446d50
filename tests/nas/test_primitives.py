"""Operations and building blocks against torch's own, run by run."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas.layers import EVALUATION, BatchNorm, LayerNorm, Pass, Pointwise, initialise_blocks
from nas.primitives import OPERATIONS

R, B, C, L = 3, 6, 5, 4
BATCH = Pass("batch")


@pytest.fixture
def inputs():
    source = torch.Generator().manual_seed(0)
    return torch.randn(2, R, B, C, L, generator=source)


def operation(name: str) -> nn.Module:
    module = OPERATIONS[name](R, C, L)
    initialise_blocks(module, range(R))
    torch.manual_seed(1)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return module


def batch_norm(module: BatchNorm, run: int) -> nn.BatchNorm1d:
    reference = nn.BatchNorm1d(module.weight.shape[1])
    reference.weight.data, reference.bias.data = module.weight.data[run].clone(), module.bias.data[run].clone()
    return reference


def test_sum(inputs):
    x, y = inputs
    torch.testing.assert_close(operation("Sum")(x, y, BATCH, ""), x + y)


def test_scaled_dot_attention(inputs):
    x, y = inputs
    module = operation("ScaledDotAttn")
    out = module(x, y, BATCH, "")
    for run in range(R):
        scores = torch.einsum("bcq,bck->bqk", x[run], y[run]) / C**0.5
        attended = torch.einsum("bqk,bck->bcq", scores.softmax(-1), y[run])
        expected = F.layer_norm(attended, (C, L), module.norm.weight[run], module.norm.bias[run])
        torch.testing.assert_close(out[run], expected)


def test_linear_glu(inputs):
    x, y = inputs
    module = operation("LinearGLU")
    out = module(x, y, BATCH, "")
    for run in range(R):
        joined = F.conv1d(torch.cat([x[run], y[run]], 1), module.convolution.weight[run][..., None])
        torch.testing.assert_close(out[run], F.glu(batch_norm(module.norm, run)(joined), dim=1))


def test_concat_fc(inputs):
    x, y = inputs
    module = operation("ConcatFC")
    out = module(x, y, BATCH, "")
    for run in range(R):
        joined = F.conv1d(torch.cat([x[run], y[run]], 1), module.block.convolution.weight[run][..., None])
        torch.testing.assert_close(out[run], batch_norm(module.block.norm, run)(joined).relu())


@pytest.mark.parametrize("name", ["ScaledDotAttn", "LinearGLU", "ConcatFC"])
def test_dropout_uses_the_masks_of_its_site(inputs, name):
    x, y = inputs
    module = operation(name)
    zeros = module(x, y, Pass("batch", {"here": torch.zeros(R, B, C, L)}), "here")
    expected = module.norm.bias[:, None].expand(R, B, C, L) if name == "ScaledDotAttn" else torch.zeros(R, B, C, L)
    torch.testing.assert_close(zeros, expected)


def test_layer_norm(inputs):
    module = LayerNorm(R, C, L)
    module.weight.data.uniform_(0.5, 2.0)
    module.bias.data.normal_()
    out = module(inputs[0])
    for run in range(R):
        torch.testing.assert_close(out[run], F.layer_norm(inputs[0][run], (C, L), module.weight[run], module.bias[run]))


def test_batch_norm_keeps_the_running_statistics_of_torch(inputs):
    module = BatchNorm(R, C)
    module.weight.data.uniform_(0.5, 2.0)
    module.bias.data.normal_()
    references = [batch_norm(module, run) for run in range(R)]
    for step in range(3):
        x = inputs[0] * (step + 1) + step
        out = module(x, Pass("track"))
        for run in range(R):
            torch.testing.assert_close(out[run], references[run](x[run]))
    before = module.running_mean.clone()
    module(inputs[1], BATCH)
    assert torch.equal(module.running_mean, before), "only a tracking pass may move the statistics"
    for run, reference in enumerate(references):
        torch.testing.assert_close(module.running_mean[run], reference.running_mean)
        torch.testing.assert_close(module.running_variance[run], reference.running_var)
        torch.testing.assert_close(module(inputs[1], EVALUATION)[run], reference.eval()(inputs[1][run]))


def test_initial_values_depend_on_the_seed_and_the_name_only():
    alone = nn.ModuleDict({"b": Pointwise(1, 7, 5)})
    beside = nn.ModuleDict({"a": Pointwise(3, 4, 4), "b": Pointwise(3, 7, 5)})
    initialise_blocks(alone, [11])
    initialise_blocks(beside, [10, 11, 12])
    assert torch.equal(alone["b"].weight[0], beside["b"].weight[1])
    assert not torch.equal(beside["b"].weight[0], beside["b"].weight[1])
    twins = nn.ModuleDict({"a": Pointwise(1, 7, 5), "b": Pointwise(1, 7, 5)})
    initialise_blocks(twins, [11])
    assert not torch.equal(twins["a"].weight, twins["b"].weight)
    assert alone["b"].weight.abs().max() <= 7**-0.5
