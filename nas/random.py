"""Random numbers by counting: each is a function of a run's seed, the name of its use, the draw and the element.

What a run draws depends on no other run, use or device: a number's place is hashed by integer arithmetic (mod 2^64),
for all runs at once. Floats are made of so many bits that no rounding can differ between devices; a logarithm is taken
in float64 and rounded afterwards.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

Runs = tuple[int, ...]
Place = tuple[str, int]
"""A site of dropout, and the elements that it has in a run."""

# Odd, so that different elements of a draw, and different draws of an element, are different places: the steps of
# SplitMix64 and of its extension to many streams.
ELEMENT, DRAW = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03
LEVELS = 256


def keys(seeds: Iterable[int], name: str) -> list[int]:
    """Return where the numbers of each seed begin, for the use of the given name: 64 bits, as signed numbers."""
    digests = [hashlib.sha256(f"{seed}/{name}".encode()).digest() for seed in seeds]
    return [int.from_bytes(digest[:8], "big", signed=True) for digest in digests]


def hashed(places: Tensor) -> Tensor:
    """Return 64 random bits for each place, int64; the places are overwritten.

    The finaliser of SplitMix64 (Stafford's variant 13). Only the last of its shifts needs to be one that shifts zeros
    in: behind the others, a multiplication spreads what is left of the sign.
    """
    part = places >> 30
    places.bitwise_xor_(part).mul_(_signed(0xBF58476D1CE4E5B9))
    torch.bitwise_right_shift(places, 27, out=part)
    places.bitwise_xor_(part).mul_(_signed(0x94D049BB133111EB))
    torch.bitwise_right_shift(places, 32, out=part)
    return places.bitwise_xor_(part.bitwise_and_(0xFFFFFFFF))


def _signed(number: int) -> int:
    """Return a whole number mod 2^64, as int64 holds it."""
    return (number + 2**63) % 2**64 - 2**63


class Streams:
    """The draws of R runs for one use (minibatches, views, choices, initial values); each method makes the next."""

    def __init__(self, seeds: Sequence[int], name: str, device: torch.device | str) -> None:
        self.device = torch.device(device)
        # Moved on with each draw, on the device: what draws can then be replayed there, see `nas.captured`.
        self.keys = torch.tensor(keys(seeds, name), device=device)[:, None]

    def bits(self, count: int) -> Tensor:
        """Return 64 random bits per element, int64 (R, count)."""
        elements = torch.arange(count, device=self.device).mul_(_signed(ELEMENT))
        places = self.keys + elements
        self.keys.add_(_signed(DRAW))
        return hashed(places)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Return numbers of (-1, 1) in steps of 2^-23, all equally likely, float32 (R, *shape)."""
        count = torch.Size(shape).numel()
        words = self.bits(-(-count // 2)).view(torch.int32)[:, :count]
        return ((words >> 8) * 2 + 1).float().mul_(2.0**-24).view(len(self.keys), *shape)

    def exponential(self, shape: Sequence[int]) -> Tensor:
        """Return E ~ Exp(1), float32 (R, *shape); -log E is a standard Gumbel variable."""
        return -self._shares(shape).log().float()

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Return standard normal numbers, float32 (R, *shape)."""
        return torch.special.ndtri(self._shares(shape)).float()  # type: ignore[no-any-return]

    def _shares(self, shape: Sequence[int]) -> Tensor:
        """Return numbers of (0, 1), float64 (R, *shape), each exact: odd multiples of 2^-53."""
        signed = self.bits(torch.Size(shape).numel()).bitwise_right_shift_(12).double()
        return signed.add_(0.5).mul_(2.0**-52).add_(0.5).view(len(self.keys), *shape)

    def integers(self, end: int, count: int) -> Tensor:
        """Return whole numbers 0..end-1, equally likely up to end / 2^31, (R, count)."""
        return self.bits(count).bitwise_and_(2**31 - 1).mul_(end).bitwise_right_shift_(31)

    def permutations(self, length: int) -> Tensor:
        """Return one shuffle of 0..length-1 per run, (R, length)."""
        return self.bits(length).argsort(dim=1, stable=True)


class Dropout:
    """The dropout of R runs: new masks in every step, all of a step drawn at once.

    A step asks once for the mask of each site; a site that is asked for again begins the next step. What is drawn is a
    function of the run's seed, the site's name and the step. One random byte decides each element, so a probability
    is rounded to a multiple of 1/256; the scale follows it.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        probability: float,
        device: torch.device | str,
        runs_at: Callable[[str], Runs] | None = None,
    ) -> None:
        """runs_at: the runs that pass a site; None: all do."""
        dropped = min(round(probability * LEVELS), LEVELS - 1)
        self.seeds, self.device, self.active = tuple(seeds), torch.device(device), dropped > 0
        self.runs_at = runs_at or (lambda _: tuple(range(len(self.seeds))))
        self.scale = torch.full((1, 1, 1), LEVELS / (LEVELS - dropped), device=device)
        self.threshold = dropped - LEVELS // 2
        self.moved = torch.zeros((), dtype=torch.int64, device=device)
        self.places: dict[Place, Tensor] = {}
        self.drawn: dict[Place, Tensor] = {}
        self.whole = torch.empty(0)

    def keep(self, site: str, shape: Sequence[int]) -> Tensor | None:
        """Return zeros (dropped) and ones (runs that pass the site, *shape), float32; None where nothing is dropped."""
        if not self.active:
            return None
        place = site, torch.Size(shape).numel()
        if place not in self.places:
            self.places[place] = self._begin(*place)
            self.drawn[place] = self._draw(self.places[place])
        elif place not in self.drawn:
            self._next_step()
        # In place and in one type: comparing into booleans and converting those takes ten times as long.
        kept = self.drawn.pop(place).view(torch.int8)[:, : place[1]].ge_(self.threshold)
        return kept.float().view(len(kept), *shape)

    def _begin(self, site: str, elements: int) -> Tensor:
        """Return the places of a site's numbers in step 0, each for 8 elements, (runs that pass it, places)."""
        begin = torch.tensor(keys((self.seeds[r] for r in self.runs_at(site)), f"dropout/{site}"), device=self.device)
        return begin[:, None] + torch.arange(-(-elements // 8), device=self.device) * _signed(ELEMENT)

    def _draw(self, places: Tensor) -> Tensor:
        return hashed(places + self.moved)

    def _next_step(self) -> None:
        """Draw for all sites that the last step passed."""
        for unread in self.drawn:
            del self.places[unread]
        sizes = [places.numel() for places in self.places.values()]
        if sum(sizes) != len(self.whole):
            self.whole = torch.cat([places.flatten() for places in self.places.values()])
            self.places = self._apart(self.whole, sizes)
        self.moved.add_(_signed(DRAW))
        self.drawn = self._apart(self._draw(self.whole), sizes)

    def _apart(self, whole: Tensor, sizes: list[int]) -> dict[Place, Tensor]:
        parts = zip(self.places.items(), torch.split(whole, sizes), strict=True)
        return {place: part.view_as(places) for (place, places), part in parts}
