"""Formulas with hand-written backward passes: few passes over memory, and no more saved than they need.

Rows are windows times positions, N = B * L: activations (R, B, L, C) are (R, N, C) here. Each function is a plain
formula of torch (its docstring states it), and the tests hold its gradients to that formula's. They are
differentiable once. What is written to is, where possible, what was just read: memory in the cache costs a fifth.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nas.config import Precision

EPSILON = 1e-5
CACHE_LINE = 16
"""Floats of a cache line."""


_changing = threading.Lock()
_before: list[str] = []
"""What each call found that has changed the precision and is not done, of all threads; the first one, the user's."""


@contextmanager
def multiplying(precision: Precision) -> Iterator[None]:
    """Has a GPU multiply in this precision meanwhile; float32 is what torch multiplies in by itself.

    All threads of a process share it: it is what it was before when the last of them is done.
    """
    if precision == "float32":
        yield
        return
    products = torch.backends.cuda.matmul
    with _changing:
        _before.append(products.fp32_precision)
        products.fp32_precision = precision
    try:
        yield
    finally:
        with _changing:
            products.fp32_precision = _before[0] if len(_before) == 1 else precision
            _before.pop()


def product(a: Tensor, b: Tensor, *, onto: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """Return a @ b (+ onto) of matrices (R, N, K) and (R, K, M); on the CPU, in each run the bits of that run alone.

    In one thread, that is. The library's sums depend on where in a cache line a matrix begins, and a single product
    with one column takes another path than several; with one row it does not.
    """
    if not a.is_cpu or torch.compiler.is_compiling():
        return _bmm(onto, a, b, out)
    if b.shape[2] == 1:
        rows = _lined_up(a if a.stride(2) == 1 else a.contiguous())
        result = _bmm(None if onto is None else onto.mT, _lined_up(b.mT), rows.mT, None).mT
        return result if out is None else out.copy_(result)
    a, b = _lined_up(a), _lined_up(b)
    if out is not None and _begins_lines(out):
        return _bmm(onto, a, b, out)
    shape = (a.shape[0], a.shape[1], b.shape[2])
    result = _bmm(onto, a, b, _lines(shape, a) if shape[1] * shape[2] % CACHE_LINE else None)
    return result if out is None else out.copy_(result)


def _bmm(onto: Tensor | None, a: Tensor, b: Tensor, out: Tensor | None) -> Tensor:
    return torch.bmm(a, b, out=out) if onto is None else torch.baddbmm(onto, a, b, out=out)


def _begins_lines(x: Tensor) -> bool:
    """Return whether each matrix of x: (R, N, M) begins a cache line, where the first does."""
    return x.stride(0) % CACHE_LINE == 0 and x.shape[1] * x.shape[2] % CACHE_LINE == 0


def _lined_up(x: Tensor) -> Tensor:
    """Return matrices (R, N, M) of which each begins a cache line; a copy where it must be."""
    return x if _begins_lines(x) else _lines(x.shape, x).copy_(x)


def _lines(shape: Sequence[int], like: Tensor) -> Tensor:
    """Return room for matrices (R, N, M) of which each begins a cache line."""
    R, N, M = shape
    run = -(-N * M // CACHE_LINE) * CACHE_LINE
    return like.new_empty(R * run).as_strided((R, N, M), (run, M, 1))


class _Blend(torch.autograd.Function):
    """sum_i weights[:, slot, i] * values[i] for every slot."""

    @staticmethod
    def forward(ctx: Any, many: bool, weights: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(weights, *values)
        ctx.many = many
        R, S, _ = weights.shape
        slots = values[0].new_empty((S, *values[0].shape))  # each slot in one piece
        out = slots.view(S, R, -1).transpose(0, 1)
        if many:
            product(weights, torch.stack(values, 1).flatten(2), out=out)
            return slots.unbind(0)
        torch.mul(weights[:, :, :1], _flat(values[0]), out=out)
        for i, value in enumerate(values[1:], 1):
            out.addcmul_(weights[:, :, i, None], _flat(value))
        return slots.unbind(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slots: Tensor) -> tuple[Tensor | None, ...]:
        weights, *values = ctx.saved_tensors
        R, S, n = weights.shape
        gradient = torch.stack(slots).view(S, R, -1).transpose(0, 1) if S > 1 else _flat(slots[0])
        of_weights = None
        if ctx.needs_input_grad[1]:
            parts = [torch.stack(values, 1).flatten(2)] if ctx.many else map(_flat, values)
            of_weights = torch.cat([product(gradient, part.transpose(1, 2)) for part in parts], 2)
        # In an architecture step only the last values, earlier cells, need a gradient: layers come first.
        needed = ctx.needs_input_grad[2:]
        first = needed.index(True) if True in needed else n
        of_values: list[Tensor | None] = [None] * n
        if first < n:
            mixed = weights[:, :, first:].transpose(1, 2)
            mixed = product(mixed, gradient) if S > 1 else mixed * gradient
            of_values[first:] = mixed.reshape(R, n - first, *values[0].shape[1:]).unbind(1)
        return None, of_weights, *of_values


def blend(values: Sequence[Tensor], weights: Tensor, *, many: bool = False) -> tuple[Tensor, ...]:
    """Return one weighted sum per slot of n values (R, B, L, C), weights: (R, slots, n).

    many: whether a copy of all values and one product is faster than a pass over the slots for each value.
    """
    if torch.compiler.is_compiling():  # also while a network is exported
        mixed = torch.bmm(weights, torch.stack([value.flatten(1) for value in values], 1))
        return mixed.view(*weights.shape[:2], *values[0].shape[1:]).unbind(1)
    result: tuple[Tensor, ...] = _Blend.apply(many, weights, *values)
    return result


def _flat(value: Tensor) -> Tensor:
    """Return a value (R, B, L, C) as (R, 1, B * L * C)."""
    return value.reshape(len(value), 1, -1)


class _ConvNorm(torch.autograd.Function):
    """activation(batch_norm(sum_i inputs[i] @ weight[:, :, columns i]^T)) * keep * scale, with batch statistics.

    Behind a ReLU, what was dropped and what was negative is 0 alike: the output says where the gradient passes.
    The dropout's scale stands in the affine part of the batch norm, where it costs nothing.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any,
        activation: str,
        keep: Tensor | None,
        scale: Tensor | None,
        weight: Tensor,
        gamma: Tensor,
        beta: Tensor,
        *inputs: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        R, outputs, ctx.columns = weight.shape
        B, L = inputs[0].shape[1:3]
        weight = _folded(weight, inputs[0].shape[3]) if ctx.columns > sum(x.shape[3] for x in inputs) else weight
        h = convolve([x.reshape(R, B * L, -1) for x in inputs], weight)
        mean = h.mean(1, keepdim=True)
        h.sub_(mean)
        affine = h * h
        variance = affine.sum(1, keepdim=True).div_(B * L)
        deviation = torch.rsqrt(variance + EPSILON)
        scaled = _scale_row(scale, activation, outputs)
        shift, slope = beta[:, None], gamma[:, None] * deviation
        if scaled is not None:
            shift, slope = shift * scaled, slope * scaled
        out, gate = torch.addcmul(shift, h, slope, out=affine), None
        if activation == "relu":
            out.relu_()
        elif activation == "glu":
            gate = affine[..., outputs // 2 :].sigmoid()
            out = affine[..., : outputs // 2] * gate
        if keep is not None:
            out.mul_(keep.view(-1, *out.shape[1:]))
        ctx.activation = activation
        saved = (out, None, None) if activation == "relu" else (keep, affine if activation == "glu" else None, gate)
        ctx.save_for_backward(weight, scaled, h, deviation, slope, *saved, *inputs)
        ctx.mark_non_differentiable(mean, variance)
        ctx.set_materialize_grads(False)  # else zeros are made for these two
        return out.view(R, B, L, -1), mean[:, 0], variance[:, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, *_: Tensor) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return (None,) * len(ctx.needs_input_grad)
        weight, scaled, h, deviation, slope, *saved = ctx.saved_tensors
        inputs = saved[3:]
        R, N, _ = h.shape
        gradient = _through_activation(ctx.activation, gradient.reshape(R, N, -1), *saved[:3])
        total = gradient.sum(1, keepdim=True)
        of_h = gradient * h
        along = of_h.sum(1, keepdim=True)
        share = slope / -N
        torch.addcmul(share * total, h, share * deviation.square() * along, out=of_h)
        of_h.addcmul_(gradient, slope)
        of_weight, of_inputs = _convolve_backward(
            of_h, weight, inputs, ctx.columns if ctx.needs_input_grad[3] else None, ctx.needs_input_grad[6:]
        )
        if not ctx.needs_input_grad[4]:
            return None, None, None, of_weight, None, None, *of_inputs
        of_gamma, of_beta = deviation * along, total
        if scaled is not None:
            of_gamma, of_beta = of_gamma * scaled, of_beta * scaled
        return None, None, None, of_weight, of_gamma[:, 0], of_beta[:, 0], *of_inputs


def conv_norm(
    inputs: Sequence[Tensor],
    weight: Tensor,
    gamma: Tensor,
    beta: Tensor,
    *,
    activation: str,
    keep: Tensor | None = None,
    scale: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (out, mean, variance): a 1x1 convolution, batch norm, activation and dropout, and the batch's statistics.

    inputs: (R, B, L, C_i), read as if concatenated along C (of two that are one tensor, W1 x + W2 x is (W1 + W2) x, at
    half the price); weight: (R, O, sum C_i); gamma, beta: (R, O); activation:
    "relu", "identity" or "glu" (O / 2 values times the sigmoid of the other O / 2); keep: the dropout's zeros and
    ones in the shape of the output (its R may be 1), scale: (R or 1, 1, 1), its factor. mean and variance (biased):
    (R, O), without a gradient.
    """
    if len(inputs) == 2 and inputs[0] is inputs[1]:
        inputs = inputs[:1]
    result: tuple[Tensor, Tensor, Tensor] = _ConvNorm.apply(activation, keep, scale, weight, gamma, beta, *inputs)
    return result


def convolve(rows: Sequence[Tensor], weight: Tensor) -> Tensor:
    """Return sum_i rows[i] @ weight[:, :, columns i]^T: (R, N, O) of rows (R, N, C_i), weight (R, O, sum C_i)."""
    parts = torch.split_with_sizes(weight, [x.shape[2] for x in rows], dim=2)
    out = product(rows[0], parts[0].transpose(1, 2))
    for x, part in zip(rows[1:], parts[1:], strict=True):
        out = product(x, part.transpose(1, 2), onto=out)
    return out


def _folded(weight: Tensor, width: int) -> Tensor:
    """Return W1 + W2 of a weight [W1 W2] that reads one input of `width` channels twice."""
    return weight[..., :width] + weight[..., width:]


def _convolve_backward(
    gradient: Tensor, weight: Tensor, inputs: Sequence[Tensor], columns: int | None, of_inputs: Sequence[bool]
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Return the gradients of a convolution's weight, of so many columns (None: not asked for), and of its inputs.

    Columns beyond the inputs' are those of a folded weight: W1 and W2 have the same gradient.
    """
    R, N, outputs = gradient.shape
    widths = [x.shape[3] for x in inputs]
    result = None
    if columns is not None:
        result = torch.empty((R, outputs, columns), dtype=weight.dtype, device=weight.device)
        for x, part in zip(inputs, torch.split_with_sizes(result[..., : sum(widths)], widths, dim=2), strict=True):
            product(gradient.transpose(1, 2), x.reshape(R, N, -1), out=part)
        if columns > sum(widths):
            result[..., widths[0] :] = result[..., : widths[0]]
    parts = torch.split_with_sizes(weight, widths, dim=2)
    return result, [
        product(gradient, part).view(x.shape) if needed else None
        for x, part, needed in zip(inputs, parts, of_inputs, strict=True)
    ]


def _scale_row(scale: Tensor | None, activation: str, channels: int) -> Tensor | None:
    """Return the dropout's scale per channel of the affine part: of a GLU, only the values are scaled."""
    if scale is None or activation != "glu":
        return scale
    half = scale.expand(-1, -1, channels // 2)
    return torch.cat([half, torch.ones_like(half)], dim=2)


def _through_activation(
    activation: str, gradient: Tensor, first: Tensor | None, affine: Tensor | None, gate: Tensor | None
) -> Tensor:
    """Return the gradient with respect to the affine part; `first` is the output of a "relu", else the mask."""
    if activation == "relu":
        return torch.ops.aten.threshold_backward(gradient, first, 0.0)  # type: ignore[no-any-return]
    if first is not None:
        gradient = gradient * first.view(-1, *gradient.shape[1:])
    if affine is None or gate is None:
        return gradient
    C = gate.shape[2]
    result = torch.empty_like(affine)
    values, gates = result[..., :C], result[..., C:]
    torch.mul(gradient, affine[..., :C], out=values)
    torch.ops.aten.sigmoid_backward.grad_input(values, gate, grad_input=gates)
    torch.mul(gradient, gate, out=values)
    return result


class _Attention(torch.autograd.Function):
    """softmax(x y^T / sqrt(C)) y * keep * scale per window.

    The softmax is written out: torch's own is several times slower on rows as short as L.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, keep: Tensor | None, scale: Tensor | None) -> Tensor:
        R, B, L, C = x.shape
        queries, keys = x.reshape(R * B, L, C), y.reshape(R * B, L, C)
        scores = product(queries, keys.transpose(1, 2)).mul_(C**-0.5)
        shares = scores.sub_(scores.amax(2, keepdim=True)).exp_()
        shares.div_(shares.sum(2, keepdim=True))
        if scale is not None:
            shares = (shares.view(R, B, L * L) * scale).view_as(shares)
        out = product(shares, keys).view(R, B, L, C)
        if keep is not None:
            out.mul_(keep)
        ctx.save_for_backward(queries, keys, shares, keep, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, shares, keep, scale = ctx.saved_tensors
        R, B, L, C = gradient.shape
        if keep is not None:
            gradient = gradient * keep
        gradient = gradient.reshape(keys.shape)
        of_scores = product(gradient, keys.transpose(1, 2)).mul_(shares)
        total = of_scores.sum(2, keepdim=True)
        if scale is not None:  # `shares` holds the scaled ones
            total = (total.view(R, B, L) / scale).view_as(total)
        of_scores.addcmul_(shares, total, value=-1.0).mul_(C**-0.5)
        of_x = product(of_scores, keys)
        of_y = product(of_scores.transpose(1, 2), queries, onto=product(shares.transpose(1, 2), gradient))
        return of_x.view(R, B, L, C), of_y.view(R, B, L, C), None, None


def attention(x: Tensor, y: Tensor, *, keep: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
    """Return attention over the L positions with queries from x and keys and values from y: (R, B, L, C) each.

    keep: the dropout's zeros and ones in that shape; scale: (R, 1, 1), its factor.
    """
    result: Tensor = _Attention.apply(x, y, keep, scale)
    return result


class _Multiply(torch.autograd.Function):
    """a @ b (+ bias)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(a, b)
        return product(a, b, onto=bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        of_a, of_b, of_bias = ctx.needs_input_grad
        return (
            product(gradient, b.transpose(1, 2)) if of_a else None,
            # Not a^T @ gradient, which takes ten times as long for two outputs.
            product(gradient.transpose(1, 2), a).transpose(1, 2) if of_b else None,
            gradient.sum(1, keepdim=True) if of_bias else None,
        )


def sigmoid(x: Tensor) -> Tensor:
    """Return 1 / (1 + exp(-x)); torch's own rounds the last few elements of a tensor, of whichever run, differently."""
    return (0.5 * x).tanh() * 0.5 + 0.5


def multiply(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return a @ b + bias: (R, N, M) of a (R, N, K), b (R, K, M), bias (R, 1, M)."""
    if torch.compiler.is_compiling():
        return product(a, b, onto=bias)
    result: Tensor = _Multiply.apply(a, b, bias)
    return result
