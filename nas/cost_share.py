"""What a mix costs: exact for a hard sample, differentiable for all."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from nas.cost import operation_cost, reshape_cost
from nas.space import Candidates, Mix


class CostShare:
    """The cost of what a mix reads and computes, as a share of all that the search space could.

    Counted are reshape layers and operations; the rest of the network is the same for every architecture.
    """

    def __init__(
        self,
        candidates: Candidates,
        in_channels: Mapping[str, int],
        *,
        channels: int,
        length: int,
        kind: Literal["parameters", "macs"],
        device: torch.device,
    ) -> None:
        layers = candidates.layers
        operations = candidates.cells[0].steps[0].operations
        of_layers = [getattr(reshape_cost(in_channels[name], channels, length), kind) for name in layers]
        of_operations = [getattr(operation_cost(name, channels, length), kind) for name in operations]
        self.whole: int = sum(of_layers) + sum(of_operations) * sum(len(cell.steps) for cell in candidates.cells)
        self.of_layers = torch.tensor(of_layers, dtype=torch.float32, device=device)
        self.of_operations = torch.tensor(of_operations, dtype=torch.float32, device=device)

    def __call__(self, mix: Mix) -> Tensor:
        """Return the share (R,). A layer that several cells read costs once."""
        count = len(self.of_layers)
        slots = [cell.inputs[..., :count].expand(-1, 2, -1) for cell in mix.cells]
        unread = torch.stack([(1.0 - slot).prod(dim=1) for slot in slots], 1).prod(dim=1)
        operations = torch.stack([weights for cell in mix.cells for weights in cell.operations], 1).sum(dim=1)
        of_layers, of_operations = (1.0 - unread) * self.of_layers, operations * self.of_operations
        return (of_layers.sum(dim=1) + of_operations.sum(dim=1)).div(self.whole)
