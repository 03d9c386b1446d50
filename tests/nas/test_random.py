"""Random numbers: functions of seed, use, draw and element; uniform, and independent as far as simple counts tell."""

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.random import DRAW, ELEMENT, Dropout, Streams

from .synthetic import HERE

WORD = 2**64


def reference(seed: int, name: str, draw: int, element: int) -> int:
    """Return the 64 bits of a place, by whole numbers of any size."""

    def shifted(z: int, by: int) -> int:
        return ((z ^ (z >> by)) if z < WORD // 2 else (z ^ ((z - WORD) >> by))) % WORD

    key = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big")
    z = (key + draw * DRAW + element * ELEMENT) % WORD
    z = shifted(z, 30) * 0xBF58476D1CE4E5B9 % WORD
    z = shifted(z, 27) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 32)


@settings(max_examples=30)
@given(seed=st.integers(-(2**70), 2**70), draws=st.integers(0, 5), count=st.integers(1, 70))
def test_bits_are_a_function_of_seed_use_draw_and_element(seed, draws, count):
    streams = Streams((seed, seed + 1, seed), "use", HERE)
    for _ in range(draws):
        streams.bits(3)
    drawn = streams.bits(count)
    assert [x % WORD for x in drawn[0].tolist()] == [reference(seed, "use", draws, e) for e in range(count)]
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(
        Streams((seed,), "another", HERE).bits(count)[0], Streams((seed,), "use", HERE).bits(count)[0]
    )


@pytest.mark.parametrize("sides", ["elements", "draws", "runs", "uses"])
def test_every_bit_is_even_and_tells_nothing_of_its_neighbours(sides):
    """Neighbouring elements, draws, seeds and uses: places that differ by a constant."""
    n = 20_000
    if sides == "elements":
        words = Streams((0,), "a", HERE).bits(n)[0]
    elif sides == "draws":
        streams = Streams((0,), "a", HERE)
        words = torch.cat([streams.bits(1)[0] for _ in range(n)])
    elif sides == "runs":
        words = Streams(range(n), "a", HERE).bits(1)[:, 0]
    else:
        words = torch.cat([Streams((0,), f"a{i}", HERE).bits(1)[0] for i in range(n)])
    bits = (words[:, None] >> torch.arange(64) & 1).float() * 2 - 1
    limit = 5 / n**0.5
    assert bits.mean(0).abs().max() < limit
    pairs = bits.T @ bits / n - torch.eye(64)
    assert pairs.abs().max() < limit, "of one number"
    assert (bits[1:].T @ bits[:-1] / n).abs().max() < limit, "of neighbours"


def test_the_distributions_are_what_they_are_called():
    streams = Streams((0, 1), "a", HERE)
    uniform = streams.uniform((20_001,))
    assert uniform.shape == (2, 20_001)
    assert uniform.abs().max() < 1
    exponential, normal = streams.exponential((100, 200)), streams.normal((100, 200))
    assert exponential.min() > 0
    grid = torch.linspace(0.05, 0.95, 19)
    for drawn, quantiles in (
        (uniform, 2 * grid - 1),
        (exponential.flatten(1), -(1 - grid).log()),
        (normal.flatten(1), torch.special.ndtri(grid)),
    ):
        for of_run in drawn:
            below = (of_run[:, None] < quantiles).float().mean(0)
            torch.testing.assert_close(below, grid, atol=0.015, rtol=0)


def test_shuffles_are_permutations_and_every_element_gets_everywhere():
    shuffles = Streams(range(6000), "a", HERE).permutations(5)
    assert (shuffles.sort(1).values == torch.arange(5)).all()
    shares = torch.stack([(shuffles == i).float().mean(0) for i in range(5)])
    torch.testing.assert_close(shares, torch.full((5, 5), 0.2), atol=0.03, rtol=0)


def test_whole_numbers_are_equally_likely():
    drawn = Streams((0,), "a", HERE).integers(7, 70_000)[0]
    torch.testing.assert_close(torch.bincount(drawn, minlength=7) / 70_000, torch.full((7,), 1 / 7), atol=0.01, rtol=0)


@pytest.mark.parametrize("probability", [0.2, 0.5, 0.75])
def test_dropout_drops_the_given_share_and_keeps_the_mean(probability):
    dropout = Dropout((0, 1), probability, "cpu")
    kept = dropout.keep("site", (40, 1001))
    assert kept.shape == (2, 40, 1001)
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    dropped = round(probability * 256) / 256
    torch.testing.assert_close(1 - kept.mean((1, 2)), torch.full((2,), dropped), atol=0.01, rtol=0)
    assert dropout.scale.item() == pytest.approx(1 / (1 - dropped))
    assert not torch.equal(kept[0], kept[1])
    again = dropout.keep("site", (40, 1001))
    assert ((kept - kept.mean()) * (again - again.mean())).mean().abs() < 0.01, "each step draws anew"
    assert Dropout((0, 1), 0.0, "cpu").keep("site", (4, 2)) is None


def test_what_a_run_drops_at_a_site_in_a_step_depends_on_nothing_else():
    """Not on the other sites, which a step draws together with it, nor on the other runs."""
    one, other = Dropout((3, 4), 0.5, "cpu"), Dropout((4,), 0.5, "cpu")
    seen = []
    for step in range(4):
        if step != 2:
            one.keep("elsewhere", (7, 3))
        seen.append(one.keep("here", (7, 3)))
        if step > 0:
            one.keep("late", (5, 5))
        assert torch.equal(seen[-1][1], other.keep("here", (7, 3))[0])
    assert len({str(kept.tolist()) for kept in seen}) == 4
    assert not torch.equal(one.keep("there", (7, 3)), Dropout((3, 4), 0.5, "cpu").keep("here", (7, 3)))


def test_a_site_that_some_runs_pass_draws_for_those():
    some = Dropout((3, 4, 5), 0.5, "cpu", runs_at=lambda site: (0, 2) if site == "here" else (0, 1, 2))
    every = Dropout((3, 4, 5), 0.5, "cpu")
    for _ in range(3):
        assert torch.equal(some.keep("there", (9,)), every.keep("there", (9,)))
        assert torch.equal(some.keep("here", (3, 11)), every.keep("here", (3, 11))[[0, 2]])
