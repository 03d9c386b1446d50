"""Planted problems: features whose label is carried in a known way, and what a search has to find in them.

Search and training settings are tuned on these alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nas import Cell, Genotype, SearchConfig, Step
from nas.genotype import cell_name

Signal = dict[str, Tensor]
"""{layer: (N, L, K)}: what is added to a layer's noise, along K random orthogonal directions."""


@dataclass(frozen=True)
class Problem:
    """One data set and its answer.

    features, labels, split: as nas.search takes them; fits: whether a genotype reads what carries the label, with an
    operation that can combine it; planted: an architecture that does. epochs: of a search, in three cycles of the
    weights' schedule, the first of them warm-up: 300 to 680 steps, however many windows a problem needs.
    """

    name: str
    features: Mapping[str, Tensor]
    labels: Tensor
    split: list[str]
    fits: Callable[[Genotype], bool]
    planted: Genotype
    epochs: int = 30

    def config(self, **settings: Any) -> SearchConfig:
        """Return the settings of a search: those of all problems, and the given ones."""
        narrow = {"channels": 16, "weight_lr": 3e-3}  # a narrow network learns at a higher rate
        cycle = self.epochs // 3
        return SearchConfig(**narrow, epochs=self.epochs, warmup_epochs=cycle, restart_epochs=cycle, **settings)


def built(pairs: tuple[tuple[str, str], ...], operation: str = "ConcatFC") -> Genotype:
    """Return a genotype of cells that read these pairs and combine them by one operation."""
    steps = (Step(x="x", y="y", operation=operation), Step(x="x", y="step1", operation=operation))
    return Genotype(cells=tuple(Cell(x=x, y=y, steps=steps) for x, y in pairs))


def reads_pair(x: str, y: str, operations: tuple[str, ...] = ()) -> Callable[[Genotype], bool]:
    """Return whether some cell reads the two layers, and combines them with one of the operations if any is given."""

    def fits(genotype: Genotype) -> bool:
        return any(
            {cell.x, cell.y} == {x, y}
            and (not operations or any({s.x, s.y} == {"x", "y"} and s.operation in operations for s in cell.steps))
            for cell in genotype.cells
        )

    return fits


def chains(layers: tuple[str, str, str]) -> Callable[[Genotype], bool]:
    """Return whether a cell reads two of the layers, and a later one that cell and the third layer."""

    def fits(genotype: Genotype) -> bool:
        read = [{cell.x, cell.y} for cell in genotype.cells]
        return any(
            len(first) == 2 and first < set(layers) and later == {cell_name(i), *set(layers) - first}
            for i, first in enumerate(read)
            for later in read[i + 1 :]
        )

    return fits


def reads_three(x: str, y: str, z: str) -> Callable[[Genotype], bool]:
    """Return whether cells can combine x with y and with z: as two pairs, or as a chain of all three."""

    def fits(genotype: Genotype) -> bool:
        read = [{cell.x, cell.y} for cell in genotype.cells]
        pairs = {x, y} in read and {x, z} in read
        return pairs or chains((x, y, z))(genotype)

    return fits


def xor(
    seed: int, *, windows: int = 600, layers: int = 4, flip: float = 0.0, name: str = "xor", epochs: int = 30
) -> Problem:
    """The XOR of a sign in one visual and one audio layer, drawn; neither alone tells anything.

    flip: share of the labels of train and val that are turned round.
    """
    source = generator(name, seed)
    x, y = (f"{modality}/l{pick(source, layers)}" for modality in ("visual", "audio"))
    signs = random_signs(source, windows, 2)
    labels = (signs[:, 0] != signs[:, 1]).long()
    features = embed(source, {x: everywhere(signs[:, :1]), y: everywhere(signs[:, 1:])}, windows, layers)
    split = thirds(windows)
    noisy = torch.rand(windows, generator=source) < flip
    noisy &= torch.tensor([part != "test" for part in split])
    labels = torch.where(noisy, 1 - labels, labels)
    return Problem(name, features, labels, split, reads_pair(x, y), built(((x, y), (x, "cell1"))), epochs)


def imbalanced(seed: int, *, windows: int = 2460, ratio: int = 40) -> Problem:
    """XOR with `ratio` fakes for every real window, in every split; 30 real ones to train on take a clear signal."""
    source = generator("imbalance", seed)
    x, y = (f"{modality}/l{pick(source, 4)}" for modality in ("visual", "audio"))
    labels = (torch.arange(windows) % (ratio + 1) != 0).long()
    first = random_signs(source, windows, 1)
    second = first * (1 - 2 * labels[:, None])
    features = embed(source, {x: everywhere(first), y: everywhere(second)}, windows, amplitude=4.0)
    return Problem("imbalance", features, labels, thirds(windows), reads_pair(x, y), built(((x, y), (x, "cell1"))), 12)


def decoys(seed: int, *, windows: int = 600) -> Problem:
    """XOR, beside one visual and one audio layer that hold the label on the train split and noise elsewhere."""
    source = generator("decoys", seed)
    (x, v), (y, a) = (
        [f"{modality}/l{i}" for i in torch.randperm(4, generator=source)[:2].tolist()]
        for modality in ("visual", "audio")
    )
    signs = random_signs(source, windows, 2)
    labels = (signs[:, 0] != signs[:, 1]).long()
    split = thirds(windows)
    train = torch.tensor([part == "train" for part in split])[:, None]
    told = {name: torch.where(train, 2.0 * labels[:, None] - 1, random_signs(source, windows, 1)) for name in (v, a)}
    signal = {x: signs[:, :1], y: signs[:, 1:]} | told
    features = embed(source, {name: everywhere(value) for name, value in signal.items()}, windows)
    return Problem("decoys", features, labels, split, reads_pair(x, y), built(((x, y), (x, "cell1"))))


def three_way(seed: int, *, windows: int = 1600) -> Problem:
    """Three signs in three layers: the third says whether the label is the XOR of the first two, or the first alone.

    No cell reads three layers: it takes two cells that read the first with the second and with the third, or a chain.
    """
    source = generator("three-way", seed)
    names = [f"{modality}/l{i}" for modality in ("visual", "audio") for i in range(4)]
    x, y, z = (names[i] for i in torch.randperm(8, generator=source)[:3].tolist())
    signs = random_signs(source, windows, 3)
    features = embed(source, {name: everywhere(signs[:, i : i + 1]) for i, name in enumerate((x, y, z))}, windows)
    target = torch.where(signs[:, 2] > 0, signs[:, 0] * signs[:, 1], signs[:, 0])
    planted = built(((x, y), (x, z)))
    return Problem(
        "three-way", features, (target < 0).long(), thirds(windows), reads_three(x, y, z), planted, epochs=18
    )


def attention(seed: int, *, windows: int = 2400, length: int = 4) -> Problem:
    """XOR of two signs that stand at different positions: operations that look at one position cannot meet both."""
    source = generator("attention", seed)
    x, y = (f"{modality}/l{pick(source, 4)}" for modality in ("visual", "audio"))
    signs = random_signs(source, windows, 2)
    first, second = torch.randperm(length, generator=source)[:2].tolist()
    place = torch.eye(length)
    signal = {x: signs[:, None, :1] * place[first, :, None], y: signs[:, None, 1:] * place[second, :, None]}
    features = embed(source, signal, windows, amplitude=4.0, length=length)
    labels = (signs[:, 0] != signs[:, 1]).long()
    return Problem(
        "attention",
        features,
        labels,
        thirds(windows),
        reads_pair(x, y, ("ScaledDotAttn",)),
        built(((x, y), (x, "cell1")), "ScaledDotAttn"),
        18,
    )


def gate(seed: int, *, windows: int = 2400, codes: int = 2) -> Problem:
    """The sign of the inner product of two codes of several numbers: a product, where ReLU needs many pieces."""
    source = generator("gate", seed)
    x, y = (f"{modality}/l{pick(source, 4)}" for modality in ("visual", "audio"))
    first, second = (torch.randn(windows, codes, generator=source) for _ in range(2))
    features = embed(source, {x: everywhere(first), y: everywhere(second)}, windows, amplitude=3.0)
    labels = ((first * second).sum(1) < 0).long()
    return Problem(
        "gate",
        features,
        labels,
        thirds(windows),
        reads_pair(x, y, ("LinearGLU",)),
        built(((x, y), (x, "cell1")), "LinearGLU"),
        18,
    )


PROBLEMS: dict[str, Callable[[int], Problem]] = {
    "xor": xor,
    "three-way": three_way,
    "attention": attention,
    "gate": gate,
    "decoys": decoys,
    "imbalance": imbalanced,
    "label-noise": lambda seed: xor(seed, windows=1600, flip=0.2, name="label-noise", epochs=18),
    "16-layers": lambda seed: xor(seed, windows=1600, layers=8, name="16-layers", epochs=18),
}


def generator(name: str, seed: int) -> torch.Generator:
    """Return the source of all that one problem draws."""
    return torch.Generator().manual_seed(1000 * seed + sum(name.encode()))


def pick(source: torch.Generator, end: int) -> int:
    """Return a whole number 0..end-1."""
    return int(torch.randint(end, (1,), generator=source))


def random_signs(source: torch.Generator, windows: int, count: int) -> Tensor:
    """Return -1 and 1, equally likely, (windows, count)."""
    return torch.randint(0, 2, (windows, count), generator=source) * 2.0 - 1.0


def everywhere(values: Tensor) -> Tensor:
    """Return (N, K) as a signal (N, 1, K), the same at all positions."""
    return values[:, None]


def embed(
    source: torch.Generator,
    signal: Signal,
    windows: int,
    layers: int = 4,
    *,
    width: int = 12,
    length: int = 4,
    amplitude: float = 2.0,
) -> dict[str, Tensor]:
    """Return layers of standard normal noise, with each signal added along random orthogonal directions."""
    features = {}
    for modality in ("visual", "audio"):
        for i in range(layers):
            name = f"{modality}/l{i}"
            features[name] = torch.randn(windows, length, width, generator=source)
            if name in signal:
                basis = torch.linalg.qr(torch.randn(width, signal[name].shape[1], generator=source)).Q
                features[name] += amplitude * torch.einsum("ck,nlk->nlc", basis, signal[name])
    return features


def thirds(windows: int) -> list[str]:
    """Return a split of windows: half train, a quarter val, the rest test."""
    train, val = windows // 2, windows // 4
    return ["train"] * train + ["val"] * val + ["test"] * (windows - train - val)
