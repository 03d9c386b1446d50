"""The table of fusion operations, one for the search and for the derived network (DESIGN section 3)."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.layers import BatchNorm, Block, ConvBlock, LayerNorm, Pass, Pointwise


class Operation(Block):
    """One way to fuse x, y: (R, B, C, L) into (R, B, C, L).

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
    """Attention over the L positions: softmax(x^T y / sqrt(C)) y^T, dropout, layer norm."""

    def __init__(self, runs: int, channels: int, length: int) -> None:
        super().__init__(runs, channels, length)
        self.norm = LayerNorm(runs, channels, length)

    def forward(self, x: Tensor, y: Tensor, how: Pass, site: str) -> Tensor:
        """Return attention with queries from x and keys and values from y."""
        queries, values = x.transpose(2, 3), y.transpose(2, 3)
        attended = F.scaled_dot_product_attention(queries, values, values).transpose(2, 3)
        return self.norm(how.drop(site, attended))  # type: ignore[no-any-return]


class LinearGLU(Operation):
    """1x1 convolution of [x; y] to 2C, batch norm, gated linear unit a * sigmoid(b), dropout."""

    symmetric = True

    def __init__(self, runs: int, channels: int, length: int) -> None:
        super().__init__(runs, channels, length)
        self.convolution = Pointwise(runs, 2 * channels, 2 * channels)
        self.norm = BatchNorm(runs, 2 * channels)

    def forward(self, x: Tensor, y: Tensor, how: Pass, site: str) -> Tensor:
        """Return the gated unit of [x; y]."""
        return how.drop(site, F.glu(self.norm(self.convolution(concatenate(x, y)), how), dim=2))


class ConcatFC(Operation):
    """1x1 convolution of [x; y] to C, batch norm, ReLU, dropout."""

    symmetric = True

    def __init__(self, runs: int, channels: int, length: int) -> None:
        super().__init__(runs, channels, length)
        self.block = ConvBlock(runs, 2 * channels, channels)

    def forward(self, x: Tensor, y: Tensor, how: Pass, site: str) -> Tensor:
        """Return the convolution block of [x; y]."""
        return self.block(concatenate(x, y), how, site)  # type: ignore[no-any-return]


def concatenate(x: Tensor, y: Tensor) -> Tensor:
    """Return [x; y]: (R, B, 2C, L), channels last in memory."""
    return torch.cat([x.transpose(2, 3), y.transpose(2, 3)], dim=3).transpose(2, 3)


OPERATIONS: dict[str, type[Operation]] = {
    operation.__name__: operation for operation in (Sum, ScaledDotAttn, LinearGLU, ConcatFC)
}
