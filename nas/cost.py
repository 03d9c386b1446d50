"""What mixes of architectures cost: parameters, and multiply-accumulates (MACs) of matrix products per window.

Both are counted on the blocks themselves, so that an operation needs no formula of its own. Element-wise work is not
counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, reduce
from operator import mul
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nas.layers import EVALUATION, ConvBlock
from nas.primitives import OPERATIONS
from nas.reading import Mix
from nas.space import Space

META = torch.device("meta")


@dataclass(frozen=True)
class Cost:
    """parameters: trained numbers; macs: multiply-accumulates of one window."""

    parameters: int
    macs: int


@cache
def operation_cost(name: str, channels: int, length: int) -> Cost:
    """Return the cost of one operation of `nas.primitives.OPERATIONS` for inputs (C, L)."""
    # Two runs: the products of one may be done twice over (`nas.functions.product`).
    operation, x = OPERATIONS[name](2, channels, length), torch.zeros(2, 1, length, channels)
    with _Macs() as counter:
        operation(x, x, EVALUATION, name)
    return Cost(_parameters(operation) // 2, counter.macs // 2)


class _Macs(TorchFunctionMode):
    """Counts the multiply-accumulates of matrix products.

    Not torch's FlopCounterMode, nor the meta device: either loads torch._dynamo, which takes longer than torch itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.bmm, torch.baddbmm):
            left, right = args[-2:]
            self.macs += left.numel() * right.shape[-1]
        return func(*args, **(kwargs or {}))


@cache
def reshape_cost(in_channels: int, channels: int, length: int) -> Cost:
    """Return the cost of one reshape layer (L, C_in) -> (L, C); it arises once, however many cells read the layer."""
    with META:
        layer = ConvBlock(1, in_channels, channels)
    return Cost(_parameters(layer), in_channels * channels * length)


class CostShare:
    """The cost of what a mix reads and computes, exact for a hard sample, as a share of all that the space could.

    Counted are reshape layers and operations; the rest of the network is the same for every architecture.
    """

    def __init__(
        self,
        space: Space,
        in_channels: Mapping[str, int],
        *,
        channels: int,
        length: int,
        kind: Literal["parameters", "macs"],
        device: torch.device,
    ) -> None:
        of_layers = [getattr(reshape_cost(in_channels[name], channels, length), kind) for name in space.layers]
        of_operations = [getattr(operation_cost(name, channels, length), kind) for name in space.operations]
        self.whole: int = sum(of_layers) + sum(of_operations) * space.cells * space.steps
        self.of_layers = torch.tensor(of_layers, dtype=torch.float32, device=device)
        self.of_operations = torch.tensor(of_operations, dtype=torch.float32, device=device)

    def __call__(self, mix: Mix) -> Tensor:
        """Return the share (R,). A layer that several cells read costs once."""
        count = len(self.of_layers)
        slots = [slot for cell in mix for slot in cell.inputs[..., :count].expand(-1, 2, -1).unbind(1)]
        # Not torch.prod: its gradient is rounded in another way where any run's factor is 0, and it reads that back.
        unread = reduce(mul, [1.0 - slot for slot in slots])
        operations = torch.stack([weights for cell in mix for weights in cell.operations], 1).sum(dim=1)
        of_layers, of_operations = (1.0 - unread) * self.of_layers, operations * self.of_operations
        return (of_layers.sum(dim=1) + of_operations.sum(dim=1)).div(self.whole)


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
