"""Random numbers per run: what a run draws depends on its own seed only, never on the runs beside it."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def generator(seed: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator that is determined by a run's seed and the name of its use."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class Streams:
    """One generator per run for one use (minibatches, views, choices, dropout).

    A loop over the runs is needed only here: a torch.Generator fills one tensor. Each method makes one draw per run.
    """

    def __init__(self, seeds: Sequence[int], name: str, device: torch.device) -> None:
        self.device = device
        self.generators = [generator(seed, name, device) for seed in seeds]

    def exponential(self, shape: Sequence[int]) -> Tensor:
        """Return E ~ Exp(1), (R, *shape); -log E is a standard Gumbel variable."""
        drawn = torch.empty((len(self.generators), *shape), device=self.device)
        for row, source in zip(drawn, self.generators, strict=True):
            row.exponential_(generator=source)
        return drawn.clamp_min_(torch.finfo(drawn.dtype).tiny)

    def permutations(self, length: int) -> Tensor:
        """Return one shuffle of 0..length-1 per run, (R, length)."""
        return torch.stack([torch.randperm(length, generator=g, device=self.device) for g in self.generators])

    def integers(self, end: int, length: int) -> Tensor:
        """Return whole numbers 0..end-1, each equally likely, (R, length)."""
        drawn = [torch.randint(end, (length,), generator=g, device=self.device) for g in self.generators]
        return torch.stack(drawn)

    def words(self, length: int) -> Tensor:
        """Return at least `length` int32 per run of 32 random bits each, (R, length or one more)."""
        drawn = torch.empty((len(self.generators), -(-length // 2)), dtype=torch.int64, device=self.device)
        for row, source in zip(drawn, self.generators, strict=True):
            row.random_(-(2**63), None, generator=source)
        return drawn.view(torch.int32)
