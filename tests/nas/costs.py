"""What architectures cost, counted on their compact networks by torch's own counter."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from nas import CompactNetwork
from nas.cost import Cost


def compact_cost(genotype, in_channels, *, channels, length):
    """Return the cost of the compact network of a genotype."""
    network = CompactNetwork(genotype, in_channels, channels=channels, length=length)
    with FlopCounterMode(display=False) as counter:
        network({name: torch.zeros(1, length, width) for name, width in network.in_channels.items()})
    return Cost(sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2)
