"""What goes in: checks of the caller's tensors, splits, and minibatches over a runs axis."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.genotype import is_layer
from nas.streams import Streams

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Dataset:
    """Checked inputs on one device; rows are windows.

    features: {layer: (N, L, C_in)}, channels last, in the caller's precision; labels: (N,) int64; train, val: row
    numbers.
    """

    features: Mapping[str, Tensor]
    labels: Tensor
    train: Tensor
    val: Tensor

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return self.labels.device

    @property
    def length(self) -> int:
        """L, positions along time."""
        return next(iter(self.features.values())).shape[1]

    @property
    def in_channels(self) -> dict[str, int]:
        """C_in of every layer."""
        return {name: x.shape[2] for name, x in self.features.items()}

    def gather(self, rows: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Return {layer: (R, B, C_in, L) float32} of rows (R, B)."""
        return {name: self.features[name][rows].float().transpose(2, 3) for name in layers}

    def class_weights(self, balanced: bool) -> Tensor:
        """Return the weights of the two classes (2,): ones, or N / (2 N_class) over the train split."""
        if not balanced:
            return torch.ones(2, device=self.device)
        counts = torch.bincount(self.labels[self.train], minlength=2)
        return len(self.train) / (2.0 * counts)


class Minibatches:
    """Endless full minibatches (R, B) of row numbers: every run shuffles anew for each pass and wraps around."""

    def __init__(self, rows: Tensor, batch_size: int, streams: Streams) -> None:
        self.rows = rows
        self.batch_size = min(batch_size, len(rows))
        self.streams = streams
        self.order = streams.permutations(len(rows))

    def next(self) -> Tensor:
        """Return the next minibatch (R, B)."""
        if self.order.shape[1] < self.batch_size:
            self.order = torch.cat([self.order, self.streams.permutations(len(self.rows))], dim=1)
        batch, self.order = self.order[:, : self.batch_size], self.order[:, self.batch_size :]
        return self.rows[batch]


def losses(logits: Tensor, labels: Tensor, class_weights: Tensor) -> Tensor:
    """Return the mean weighted cross-entropy per run (R,) of logits (R, B, 2), labels (R, B) or (B,)."""
    R, B, _ = logits.shape
    targets = labels.expand(R, B).flatten()
    return F.cross_entropy(logits.flatten(0, 1), targets, class_weights, reduction="none").view(R, B).mean(1)


def prepare(
    features: Mapping[str, Tensor], labels: Any, split: Sequence[str], device: str | None, *, reads: str
) -> Dataset:
    """Return the checked data set; ValueError names what is wrong, its value and what is allowed.

    reads: "train_val" where no other row may matter (the search), "all" where every row is scored. Only rows that
    are read must be finite.
    """
    count = _check_shapes(features)
    target = _check_labels(labels, count)
    rows = _check_split(split, target)
    used = torch.cat([rows["train"], rows["val"]]) if reads == "train_val" else torch.arange(count)
    for name, x in features.items():
        finite = x[used.to(x.device)].isfinite().flatten(1).all(dim=1)
        if not finite.all():
            bad = used[(~finite).nonzero()[0].cpu()].item()
            raise ValueError(f"features[{name!r}] holds values that are not finite, first in row {bad}")
    where = torch.device(device) if device is not None else next(iter(features.values())).device
    return Dataset(
        {name: x.detach().to(where).transpose(1, 2).contiguous() for name, x in features.items()},
        target.to(where),
        rows["train"].to(where),
        rows["val"].to(where),
    )


def check_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """Return the seeds; ValueError unless there is at least one."""
    if len(seeds) == 0:
        raise ValueError("seeds is empty; allowed: one whole number per run, at least one")
    return tuple(int(seed) for seed in seeds)


def _check_shapes(features: Mapping[str, Tensor]) -> int:
    if len(features) < 2:
        raise ValueError(f"features has the layers {list(features)}; allowed: at least two, since a cell reads two")
    first_name, first = next(iter(features.items()))
    for name, x in features.items():
        if not is_layer(name):
            raise ValueError(f"features has the layer {name!r}; allowed: 'visual/NAME' or 'audio/NAME'")
        if not isinstance(x, Tensor) or x.dtype not in (torch.float16, torch.float32):
            given = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"features[{name!r}] is {given}; allowed: a torch tensor of float16 or float32")
        if x.ndim != 3 or 0 in x.shape:
            raise ValueError(f"features[{name!r}] has shape {tuple(x.shape)}; allowed: (N, C_in, L), none of them 0")
        for axis, what in ((0, "windows N"), (2, "positions L")):
            if x.shape[axis] != first.shape[axis]:
                raise ValueError(
                    f"features[{name!r}] has {x.shape[axis]} {what}; allowed: the {first.shape[axis]} of "
                    f"features[{first_name!r}]"
                )
    return first.shape[0]


def _check_labels(labels: Any, count: int) -> Tensor:
    target = torch.as_tensor(labels).detach().cpu()
    if target.shape != (count,):
        raise ValueError(f"labels has shape {tuple(target.shape)}; allowed: ({count},), one per window of features")
    wrong = target[(target != 0) & (target != 1)]
    if len(wrong):
        raise ValueError(f"labels holds {wrong[0].item()}; allowed: 0 (real) and 1 (fake)")
    return target.long()


def _check_split(split: Sequence[str], labels: Tensor) -> dict[str, Tensor]:
    names = [str(name) for name in split]
    if len(names) != len(labels):
        raise ValueError(f"split has length {len(names)}; allowed: {len(labels)}, one per window of features")
    for name in names:
        if name not in SPLITS:
            raise ValueError(f"split holds {name!r}; allowed: {', '.join(SPLITS)}")
    rows = {part: torch.tensor([i for i, name in enumerate(names) if name == part]) for part in ("train", "val")}
    for part, indices in rows.items():
        if len(indices) == 0:
            raise ValueError(f"split has no {part!r} rows; allowed: at least one of each class in train and in val")
        present = sorted(set(labels[indices].tolist()))
        if len(present) < 2:
            raise ValueError(f"split {part!r} holds only labels {present}; allowed: both classes, 0 and 1")
    return rows
