"""Planted problems: features whose label is carried in a known way, and what a search has to find in them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nas import Genotype
from nas.genotype import cell_name

Signal = dict[str, Tensor]
"""{layer: (N, K, L)}: what is added to a layer's noise, along K random orthogonal directions."""


@dataclass(frozen=True)
class Problem:
    """One data set and its answer.

    features, labels, split: as nas.search takes them; layers: those that carry the label; fits: whether a genotype
    can compute it; best: the area under the ROC curve of the ideal score on the test split.
    """

    name: str
    features: Mapping[str, Tensor]
    labels: Tensor
    split: list[str]
    fits: Callable[[Genotype], bool]
    settings: dict[str, int] = field(default_factory=dict)


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


def xor(seed: int, *, windows: int = 600, layers: int = 4, flip: float = 0.0, name: str = "xor") -> Problem:
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
    return Problem(name, features, torch.where(noisy, 1 - labels, labels), split, reads_pair(x, y))


def imbalanced(seed: int, *, windows: int = 2460, ratio: int = 40) -> Problem:
    """XOR with `ratio` fakes for every real window, in every split."""
    source = generator("imbalance", seed)
    x, y = (f"{modality}/l{pick(source, 4)}" for modality in ("visual", "audio"))
    labels = (torch.arange(windows) % (ratio + 1) != 0).long()
    first = random_signs(source, windows, 1)
    second = first * (1 - 2 * labels[:, None])
    features = embed(source, {x: everywhere(first), y: everywhere(second)}, windows)
    return Problem("imbalance", features, labels, thirds(windows), reads_pair(x, y))


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
    return Problem("decoys", features, labels, split, reads_pair(x, y))


def three_way(seed: int, *, windows: int = 1200, bias: float = 0.75) -> Problem:
    """The parity of three signs in three layers: a cell of two of them, and one of that cell and the third.

    The third sign is 1 with probability `bias`: the first two alone reach an AUC of `bias`, one alone nothing.
    """
    source = generator("three-way", seed)
    names = [f"{modality}/l{i}" for modality in ("visual", "audio") for i in range(4)]
    read = [names[i] for i in torch.randperm(8, generator=source)[:3].tolist()]
    signs = random_signs(source, windows, 3)
    signs[:, 2] = torch.where(torch.rand(windows, generator=source) < bias, 1.0, -1.0)
    features = embed(source, {name: everywhere(signs[:, i : i + 1]) for i, name in enumerate(read)}, windows)
    return Problem("three-way", features, (signs.prod(1) < 0).long(), thirds(windows), chains(tuple(read)))


def attention(seed: int, *, windows: int = 1200, length: int = 4) -> Problem:
    """XOR of two signs that stand at different positions: operations that look at one position cannot meet both."""
    source = generator("attention", seed)
    x, y = (f"{modality}/l{pick(source, 4)}" for modality in ("visual", "audio"))
    signs = random_signs(source, windows, 2)
    first, second = torch.randperm(length, generator=source)[:2].tolist()
    place = torch.eye(length)
    signal = {x: signs[:, :1, None] * place[first], y: signs[:, 1:, None] * place[second]}
    features = embed(source, signal, windows, amplitude=4.0, length=length)
    labels = (signs[:, 0] != signs[:, 1]).long()
    return Problem("attention", features, labels, thirds(windows), reads_pair(x, y, ("ScaledDotAttn",)))


def gate(seed: int, *, windows: int = 1200, codes: int = 3) -> Problem:
    """The sign of the inner product of two codes of several numbers: a product, where ReLU needs many pieces."""
    source = generator("gate", seed)
    x, y = (f"{modality}/l{pick(source, 4)}" for modality in ("visual", "audio"))
    first, second = (torch.randn(windows, codes, generator=source) for _ in range(2))
    features = embed(source, {x: everywhere(first), y: everywhere(second)}, windows)
    labels = ((first * second).sum(1) < 0).long()
    return Problem("gate", features, labels, thirds(windows), reads_pair(x, y, ("LinearGLU",)))


PROBLEMS: dict[str, Callable[[int], Problem]] = {
    "xor": xor,
    "three-way": three_way,
    "attention": attention,
    "gate": gate,
    "decoys": decoys,
    "imbalance": imbalanced,
    "label-noise": lambda seed: xor(seed, flip=0.2, name="label-noise"),
    "16-layers": lambda seed: xor(seed, layers=8, name="16-layers"),
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
    """Return (N, K) as a signal (N, K, 1), the same at all positions."""
    return values[:, :, None]


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
            features[name] = torch.randn(windows, width, length, generator=source)
            if name in signal:
                basis = torch.linalg.qr(torch.randn(width, signal[name].shape[1], generator=source)).Q
                features[name] += amplitude * torch.einsum("ck,nkl->ncl", basis, signal[name])
    return features


def thirds(windows: int) -> list[str]:
    """Return a split of windows: half train, a quarter val, the rest test."""
    train, val = windows // 2, windows // 4
    return ["train"] * train + ["val"] * val + ["test"] * (windows - train - val)
