"""Operations against torch's own modules, run by run, and the contract that all of them keep."""

import pytest
import torch
import torch.nn.functional as F

from nas.layers import Pass
from nas.names import DEFAULT_OPERATIONS
from nas.primitives import OPERATIONS, Synchrony
from nas.random import Dropout

from .conformance import BATCH, B, C, Conformance, L, R, build, inputs
from .synthetic import HERE
from .test_layers import batch_norm

for _kind in OPERATIONS.values():
    globals()[f"Test{_kind.__name__}"] = type(f"Test{_kind.__name__}", (Conformance,), {"operation": _kind})


def run(name):
    """Return the operation, its inputs and its output."""
    module, (x, y) = build(OPERATIONS[name]), inputs()
    return module, x, y, module(x, y, BATCH, "")


def convolved(module, run, z):
    return F.conv1d(z.mT, module.convolution.weight[run][..., None])


def test_the_default_operations_are_those_of_the_paper():
    assert DEFAULT_OPERATIONS == ("Sum", "ScaledDotAttn", "LinearGLU", "ConcatFC")


def test_sum():
    _, x, y, out = run("Sum")
    torch.testing.assert_close(out, x + y)


def test_scaled_dot_attention():
    module, x, y, out = run("ScaledDotAttn")
    for r in range(R):
        shares = (torch.einsum("bqc,bkc->bqk", x[r], y[r]) / C**0.5).softmax(-1)
        expected = F.layer_norm(shares @ y[r], (L, C), module.norm.weight[r], module.norm.bias[r])
        torch.testing.assert_close(out[r], expected)


def test_linear_glu():
    module, x, y, out = run("LinearGLU")
    for r in range(R):
        joined = convolved(module.block, r, torch.cat([x[r], y[r]], 2))
        torch.testing.assert_close(out[r], F.glu(batch_norm(module.block.norm, r)(joined), dim=1).mT)


def test_concat_fc():
    module, x, y, out = run("ConcatFC")
    for r in range(R):
        joined = convolved(module.block, r, torch.cat([x[r], y[r]], 2))
        torch.testing.assert_close(out[r], batch_norm(module.block.norm, r)(joined).relu().mT)


def test_cross_gate():
    module, x, y, out = run("CrossGate")
    for r in range(R):
        of_x = batch_norm(module.gate_x.norm, r)(convolved(module.gate_x, r, y[r])).sigmoid().mT
        of_y = batch_norm(module.gate_y.norm, r)(convolved(module.gate_y, r, x[r])).sigmoid().mT
        torch.testing.assert_close(out[r], x[r] * of_x + y[r] * of_y)


def test_low_rank_bilinear():
    module, x, y, out = run("LowRankBilinear")
    for r in range(R):
        product = (x[r] @ module.left.weight[r].T) * (y[r] @ module.right.weight[r].T)
        expected = batch_norm(module.block.norm, r)(convolved(module.block, r, product)).relu().mT
        torch.testing.assert_close(out[r], expected)


def test_synchrony():
    module, x, y, out = run("Synchrony")
    reach = Synchrony.REACH
    for r in range(R):
        left, right = x[r] @ module.left.weight[r].T, y[r] @ module.right.weight[r].T
        band = torch.zeros(B, L, 2 * reach + 1)
        for position in range(L):
            for shift in range(-reach, reach + 1):
                if 0 <= position + shift < L:
                    cosine = F.cosine_similarity(left[:, position], right[:, position + shift], dim=1)
                    band[:, position, shift + reach] = cosine
        torch.testing.assert_close(out[r], batch_norm(module.block.norm, r)(convolved(module.block, r, band)).relu().mT)


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "Sum"])
def test_dropout_drops_what_the_site_draws(name):
    """What is kept is scaled; attention drops before its layer norm, the others last."""
    module, (x, y) = build(OPERATIONS[name]), inputs()
    dropout = Pass("batch", Dropout(range(R), 0.5, HERE))
    out = module(x, y, dropout, "here")
    kept = Dropout(range(R), 0.5, HERE).keep("here", (B, L, C))
    assert 0.4 < kept.mean() < 0.6
    if name == "ScaledDotAttn":
        undropped = [((x[r] @ y[r].mT) / C**0.5).softmax(-1) @ y[r] for r in range(R)]
        torch.testing.assert_close(out, module.norm(torch.stack(undropped) * kept * 2))
    else:
        torch.testing.assert_close(out, module(x, y, BATCH, "here") * kept * 2)
