"""Every hand-written backward pass against autograd on the plain formula."""

import pytest
import torch
import torch.nn.functional as F

from nas.functions import EPSILON, attention, blend, conv_norm, multiply, product

R, B, L, C = 2, 3, 4, 3


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def plain_conv_norm(inputs, weight, gamma, beta, *, activation, keep, scale):
    joined = torch.cat(inputs, 3)
    h = torch.einsum("rblc,roc->rblo", joined, weight)
    mean, variance = h.mean((1, 2), keepdim=True), h.var((1, 2), unbiased=False, keepdim=True)
    h = (h - mean) / (variance + EPSILON).sqrt() * gamma[:, None, None] + beta[:, None, None]
    out = {"relu": F.relu, "identity": lambda z: z, "glu": F.glu}[activation](h)
    return out if keep is None else out * keep * scale[..., None]


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("activation", ["relu", "identity", "glu"])
def test_conv_norm(activation, count, drop):
    inputs = [normal(R, B, L, C, seed=i) for i in range(count)]
    weight, gamma, beta = normal(R, 4, count * C, seed=7), normal(R, 4, seed=8), normal(R, 4, seed=9)
    keep = (normal(R, B, L, 2 if activation == "glu" else 4, seed=10) > -0.3).double() if drop else None
    scale = torch.tensor([1.25, 2.0], dtype=torch.float64).view(R, 1, 1) if drop else None

    def ours(weight, gamma, beta, *inputs):
        return conv_norm(inputs, weight, gamma, beta, activation=activation, keep=keep, scale=scale)[0]

    arguments = (weight, gamma, beta, *inputs)
    expected = plain_conv_norm(inputs, weight, gamma, beta, activation=activation, keep=keep, scale=scale)
    torch.testing.assert_close(ours(*arguments), expected)
    direction = torch.randn(expected.shape, dtype=torch.float64)
    theirs = torch.autograd.grad((expected * direction).sum(), arguments)
    mine = torch.autograd.grad((ours(*arguments) * direction).sum(), arguments)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)
    assert torch.autograd.gradcheck(ours, arguments)


@pytest.mark.parametrize("activation", ["relu", "glu"])
def test_conv_norm_of_one_input_read_twice(activation, monkeypatch):
    x, weight, gamma, beta = normal(R, B, L, C), normal(R, 4, 2 * C, seed=7), normal(R, 4, seed=8), normal(R, 4, seed=9)
    arguments = (weight, gamma, beta, x)
    expected = plain_conv_norm([x, x], weight, gamma, beta, activation=activation, keep=None, scale=None)
    products = []
    original = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda *a, **k: products.append(a) or original(*a, **k))
    result = conv_norm([x, x], weight, gamma, beta, activation=activation)[0]
    torch.testing.assert_close(result, expected)
    direction = normal(*expected.shape, seed=10).detach()
    mine = torch.autograd.grad((result * direction).sum(), arguments)
    assert len(products) == 3, "one product each for the result, the weight's gradient and the input's"
    for a, b in zip(mine, torch.autograd.grad((expected * direction).sum(), arguments), strict=True):
        torch.testing.assert_close(a, b)


def test_conv_norm_gives_the_statistics():
    x, weight = normal(R, B, L, C), normal(R, 4, C, seed=1)
    _, mean, variance = conv_norm([x], weight, normal(R, 4, seed=2), normal(R, 4, seed=3), activation="relu")
    h = torch.einsum("rblc,roc->rblo", x, weight).flatten(1, 2)
    torch.testing.assert_close(mean, h.mean(1))
    torch.testing.assert_close(variance, h.var(1, unbiased=False))


@pytest.mark.parametrize("drop", [False, True])
def test_attention(drop):
    x, y = normal(R, B, L, C), normal(R, B, L, C, seed=1)
    keep = (normal(R, B, L, C, seed=2) > -0.3).double() if drop else None
    scale = torch.tensor([1.25, 2.0], dtype=torch.float64).view(R, 1, 1) if drop else None
    expected = F.scaled_dot_product_attention(x, y, y)
    expected = expected * keep * scale[..., None] if drop else expected

    def ours(x, y):
        return attention(x, y, keep=keep, scale=scale)

    torch.testing.assert_close(ours(x, y), expected)
    assert torch.autograd.gradcheck(ours, (x, y))


def test_attention_survives_large_scores():
    x = 1e4 * normal(R, B, L, C)
    torch.testing.assert_close(attention(x, x), F.scaled_dot_product_attention(x, x, x))


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("many", [False, True])
def test_blend(slots, many):
    values = [normal(R, B, L, C, seed=i) for i in range(4)]
    weights = normal(R, slots, 4, seed=9)

    def ours(weights, *values):
        return blend(values, weights, many=many)

    for slot, result in enumerate(ours(weights, *values)):
        expected = sum(weights[:, slot, i, None, None, None] * value for i, value in enumerate(values))
        torch.testing.assert_close(result, expected)
    assert torch.autograd.gradcheck(ours, (weights, *values))


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 8, 16), (4, 6, 1), (8, 32, 7)])
def test_a_product_is_that_of_each_pair_alone_to_the_bit(shape):
    N, K, M = shape
    source = torch.Generator().manual_seed(0)
    for transposed in ((False, False), (True, False), (False, True)):
        sides = (torch.randn(5, *size, generator=source) for size in ((N, K), (K, M)))
        a, b = (x.mT.contiguous().mT if turned else x for x, turned in zip(sides, transposed, strict=True))
        onto = torch.randn(5, N, M, generator=source)
        together = product(a, b), product(a, b, onto=onto), product(a, b, out=torch.empty(5, N, 2 * M)[..., :M])
        torch.testing.assert_close(together[0], torch.bmm(a, b), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(together[1], torch.baddbmm(onto, a, b), rtol=1e-5, atol=1e-5)
        assert torch.equal(together[0], together[2])
        for r in range(5):
            one, other, added = (x[r : r + 1].clone() for x in (a, b, onto))
            assert torch.equal(product(one, other), together[0][r : r + 1])
            assert torch.equal(product(one, other, onto=added), together[1][r : r + 1])


def test_multiply():
    x, weight, bias = normal(R, B, 5), normal(R, 2, 5, seed=7), normal(R, 2, seed=8)
    expected = torch.einsum("rbi,roi->rbo", x, weight) + bias[:, None]
    torch.testing.assert_close(multiply(x, weight.mT, bias[:, None]), expected)
    assert torch.autograd.gradcheck(multiply, (x, weight.mT, bias[:, None]))
    frozen = torch.autograd.grad(multiply(x, weight.detach().mT, bias.detach()[:, None]).sum(), x)
    torch.testing.assert_close(frozen, torch.autograd.grad(expected.sum(), x))


def test_nothing_is_computed_for_what_needs_no_gradient(monkeypatch):
    """Architecture steps hold the weights, weight steps the choices."""
    x, weight = normal(R, B, L, C), normal(R, 4, C, seed=1).detach()
    out, *_ = conv_norm([x], weight, weight[..., 0], weight[..., 1], activation="relu")
    products = []
    original = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda *a, **k: products.append(a) or original(*a, **k))
    torch.autograd.grad(out.sum(), x)
    assert len(products) == 1
    out, *_ = conv_norm([x.detach()], weight, weight[..., 0], weight[..., 1], activation="relu")
    assert not out.requires_grad
