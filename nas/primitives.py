"""The table of fusion operations, one for the search and for the derived network (arXiv 2406.13384, section 3).

A new operation is one class in OPERATIONS; a subclass of `tests.nas.conformance.Conformance` tests that it keeps the
contract. A search uses the operations that its configuration names.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from nas import names
from nas.functions import attention, multiply, sigmoid
from nas.layers import Activation, Block, ConvBlock, LayerNorm, Pass, Pointwise


class Operation(Block):
    """One way to fuse x, y: (R, B, L, C) into (R, B, L, C).

    The contract: `__init__(runs, channels, length)` makes parameters with a leading runs axis, out of the blocks of
    `nas.layers` or with an `initialise` of their own. Run r of the output depends on run r of the inputs and of the
    parameters only. A window's output depends on the other windows of its minibatch through batch norm only, and on
    no other window where `how.statistics` is "running". Random zeros come from `how.drop(site, ...)` or the `site`
    of a `ConvBlock`; where an operation has several such places, it appends a name of its own to `site`.

    symmetric: whether exchanging x and y amounts to a permutation of the weights.
    """

    symmetric: ClassVar[bool] = False

    def __init__(self, runs: int, channels: int, length: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, y: Tensor, how: Pass, site: str) -> Tensor:
        """Return the fusion of x and y; `site` names the operation's dropout."""
        raise NotImplementedError


class Sum(Operation):
    """x + y."""

    symmetric = True

    def forward(self, x: Tensor, y: Tensor, how: Pass, site: str) -> Tensor:
        """Return x + y."""
        return x + y


class ScaledDotAttn(Operation):
    """Attention over the L positions: softmax(x y^T / sqrt(C)) y, dropout, layer norm."""

    def __init__(self, runs: int, channels: int, length: int) -> None:
        super().__init__(runs, channels, length)
        self.norm = LayerNorm(runs, channels, length)

    def forward(self, x: Tensor, y: Tensor, how: Pass, site: str) -> Tensor:
        """Return attention with queries from x and keys and values from y."""
        keep, scale = how.keep(site, x.shape[1:])
        return self.norm(attention(x, y, keep=keep, scale=scale))  # type: ignore[no-any-return]


class ConcatFC(Operation):
    """1x1 convolution of [x; y] to C, batch norm, ReLU, dropout."""

    symmetric = True
    activation: ClassVar[Activation] = "relu"

    def __init__(self, runs: int, channels: int, length: int) -> None:
        super().__init__(runs, channels, length)
        self.block = ConvBlock(runs, 2 * channels, channels, self.activation)

    def forward(self, x: Tensor, y: Tensor, how: Pass, site: str) -> Tensor:
        """Return the convolution block of [x; y]."""
        return self.block(x, y, how=how, site=site)  # type: ignore[no-any-return]


class LinearGLU(ConcatFC):
    """1x1 convolution of [x; y] to 2C, batch norm, gated linear unit a * sigmoid(b), dropout."""

    activation = "glu"


class CrossGate(Operation):
    """Each input opens and shuts the other: x * sigmoid(norm(V y)) + y * sigmoid(norm(W x)), dropout."""

    symmetric = True

    def __init__(self, runs: int, channels: int, length: int) -> None:
        super().__init__(runs, channels, length)
        self.gate_x = ConvBlock(runs, channels, channels, "identity")
        self.gate_y = ConvBlock(runs, channels, channels, "identity")

    def forward(self, x: Tensor, y: Tensor, how: Pass, site: str) -> Tensor:
        """Return the sum of both inputs, each gated by the other."""
        undropped = Pass(how.statistics)
        gate_x = sigmoid(self.gate_x(y, how=undropped, site=site))
        gate_y = sigmoid(self.gate_y(x, how=undropped, site=site))
        return how.drop(site, torch.addcmul(x * gate_x, y, gate_y))


class LowRankBilinear(Operation):
    """Products of rank C / 4: a convolution block of (U x) * (V y), as in low-rank bilinear pooling."""

    symmetric = True

    def __init__(self, runs: int, channels: int, length: int) -> None:
        super().__init__(runs, channels, length)
        rank = max(channels // 4, 1)
        self.left = Pointwise(runs, channels, rank)
        self.right = Pointwise(runs, channels, rank)
        self.block = ConvBlock(runs, rank, channels)

    def forward(self, x: Tensor, y: Tensor, how: Pass, site: str) -> Tensor:
        """Return the convolution block of the projections' product."""
        return self.block(self.left(x) * self.right(y), how=how, site=site)  # type: ignore[no-any-return]


class Synchrony(Operation):
    """How well x agrees with y some positions earlier or later: the cue that badly synchronised lips leave.

    Both are projected to rank C / 4. The cosines of position l of x and position l + s of y, for the shifts s from
    -REACH to REACH (0 where l + s is outside), go through a convolution block.
    """

    REACH = 3

    def __init__(self, runs: int, channels: int, length: int) -> None:
        super().__init__(runs, channels, length)
        rank = max(channels // 4, 1)
        self.left = Pointwise(runs, channels, rank)
        self.right = Pointwise(runs, channels, rank)
        self.block = ConvBlock(runs, 2 * self.REACH + 1, channels)

    def forward(self, x: Tensor, y: Tensor, how: Pass, site: str) -> Tensor:
        """Return the convolution block of the correlations at all shifts."""
        R, B, L, _ = x.shape
        left, right = (F.normalize(z, dim=3).reshape(R * B, L, -1) for z in (self.left(x), self.right(y)))
        cosines = multiply(left, right.transpose(1, 2)).view(R, B, L, L)
        # Row l of the padded matrix holds shift s in column l + s + REACH.
        padded = F.pad(cosines, (self.REACH, self.REACH))
        columns = torch.arange(L, device=x.device)[:, None] + torch.arange(2 * self.REACH + 1, device=x.device)
        band = padded.gather(3, columns.expand(R, B, -1, -1))
        return self.block(band, how=how, site=site)  # type: ignore[no-any-return]


OPERATIONS: dict[str, type[Operation]] = dict(
    zip(
        names.OPERATIONS,
        (Sum, ScaledDotAttn, LinearGLU, ConcatFC, CrossGate, LowRankBilinear, Synchrony),
        strict=True,
    )
)
