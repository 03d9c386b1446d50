"""What goes in: checks of the caller's tensors, splits, and minibatches over a runs axis."""

import operator
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nas.genotype import Genotype, is_layer
from nas.random import Streams

SPLITS = ("train", "val", "test")


class DataError(ValueError):
    """An argument cannot be searched or trained on; the message says which, what was given and what is allowed."""


@dataclass(frozen=True)
class Dataset:
    """Checked inputs on one device; rows are windows.

    features: {layer: (V, N, L, C_in)}, channels last, in the caller's precision and, where possible, memory; labels:
    (N,) int64; train, val, test: row numbers, in an order of the rows' contents, so that no minibatch, statistic or
    rounding depends on the order of the caller's rows. View 0 is the window itself; the others are variants of it to
    train on. gaps: the layers that some window lacks: its features are zeros throughout.
    """

    features: Mapping[str, Tensor]
    labels: Tensor
    train: Tensor
    val: Tensor
    test: Tensor
    gaps: frozenset[str]

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return self.labels.device

    @property
    def views(self) -> int:
        """V, variants of every window."""
        return next(iter(self.features.values())).shape[0]

    @property
    def windows(self) -> int:
        """N, windows."""
        return len(self.labels)

    @property
    def length(self) -> int:
        """L, positions along time."""
        return next(iter(self.features.values())).shape[2]

    @property
    def in_channels(self) -> dict[str, int]:
        """C_in of every layer."""
        return {name: x.shape[3] for name, x in self.features.items()}

    def gather(self, rows: Tensor, layers: Sequence[str], views: Tensor | None = None) -> dict[str, Tensor]:
        """Return {layer: (R, B, L, C_in) float32} of rows (R, B), each in its view (R, B); None: all in view 0."""
        read = (rows if views is None else views * self.windows + rows).flatten()
        gathered = {}
        for name in layers:
            x = self.features[name]
            # index_select of whole windows: indexing by x[rows] takes three times as long.
            chosen = x.view(-1, x.shape[2] * x.shape[3]).index_select(0, read)
            gathered[name] = chosen.float().view(*rows.shape, *x.shape[2:])
        return gathered

    def draw_views(self, rows: Tensor, streams: Streams) -> Tensor | None:
        """Return a view for each of rows (R, B), all equally likely; None, and nothing drawn, where there is one."""
        return streams.integers(self.views, rows.shape[1]) if self.views > 1 else None

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
    """Return the checked data set; DataError names what is wrong, its value and what is allowed.

    Features that are contiguous and on the device are used where they lie, without a copy.

    reads: "train_val" where no other row may matter (the search), "all" where every row is scored. Only what is read
    must be finite: train rows in every view, other rows in view 0. A window whose features of a layer are all 0 has no
    such layer: networks leave it out.
    """
    stacked = _check_shapes(features)
    count = next(iter(stacked.values())).shape[1]
    target = _check_labels(labels, count)
    rows = _check_split(split, target)
    if reads == "train_val":
        rows["test"] = rows["test"][:0]
    gaps = set()
    for name, x in stacked.items():
        for view in range(len(x)):
            used = torch.cat(list(rows.values())) if view == 0 else rows["train"]
            if _has_gaps(name, x[view], used, f" of view {view}" if view else ""):
                gaps.add(name)
    where = next(iter(stacked.values())).device if device is None else _check_device(device)
    for part, of_part in rows.items():
        read = [x[:] if part == "train" else x[:1] for x in stacked.values()]
        rows[part] = _in_own_order([view for views in zip(*read, strict=True) for view in views], target, of_part)
    return Dataset(
        {name: x.detach().to(where).contiguous() for name, x in stacked.items()},
        target.to(where),
        **{part: of_part.to(where) for part, of_part in rows.items()},
        gaps=frozenset(gaps),
    )


def _in_own_order(layers: Sequence[Tensor], labels: Tensor, rows: Tensor) -> Tensor:
    """Return the rows in an order that depends on what they hold, not on where they lie, and that mixes the classes.

    layers: (N, L, C_in) each. They are sorted by a digest of the first; only rows that are equal in it, as silence is,
    are told apart by the next one. Rows that are equal in all are as good as each other, up to their labels.
    """
    digests = dict.fromkeys(rows.tolist(), b"")
    alike = list(digests)
    for layer in layers:
        x = layer.detach().cpu()
        for row in alike:
            digests[row] += blake2b(x[row].float().numpy().tobytes(), digest_size=16).digest()
        groups = Counter(digests[row] for row in alike)
        alike = [row for row in alike if groups[digests[row]] > 1]
        if not alike:
            break
    return torch.tensor(sorted(digests, key=lambda row: (digests[row], labels[row].item())), dtype=torch.long)


def of_modality(features: Mapping[str, Tensor], modality: str) -> dict[str, Tensor]:
    """Return the layers of one modality, or all for "both"; DataError where a modality has none."""
    wanted = ("visual", "audio") if modality == "both" else (modality,)
    names = [name for name in _check_mapping(features) if not is_layer(name) or name.partition("/")[0] in wanted]
    for name in wanted:
        if len(features) > 1 and not any(str(layer).startswith(f"{name}/") for layer in features):
            raise DataError(
                f"features has no {name} layer, only {list(features)}; to search on one modality alone, set `modality` "
                "in the SearchConfig to it"
            )
    return {name: features[name] for name in names}


def check_seeds(seeds: Any) -> tuple[int, ...]:
    """Return the seeds; DataError unless they are whole numbers, at least one."""
    allowed = "allowed: whole numbers, one per run, at least one"
    if not isinstance(seeds, Iterable) or isinstance(seeds, str):
        raise DataError(f"seeds is {seeds!r}; {allowed}, as [{seeds}]")
    checked = []
    for i, seed in enumerate(seeds):
        if not hasattr(seed, "__index__"):
            raise DataError(f"seeds[{i}] is {seed!r}; {allowed}")
        checked.append(operator.index(seed))
    if not checked:
        raise DataError(f"seeds is empty; {allowed}")
    return tuple(checked)


def check_genotypes(genotypes: Genotype | Sequence[Genotype], layers: Iterable[str]) -> list[Genotype]:
    """Return the genotypes, one or several; DataError unless they read nothing but these layers."""
    given = [genotypes] if isinstance(genotypes, Genotype) else genotypes
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise DataError(f"genotypes is a {type(given).__name__}; allowed: a nas.Genotype, or a list of them")
    checked = list(given)
    if not checked:
        raise DataError("genotypes is empty; allowed: a nas.Genotype, or a list of at least one")
    for i, genotype in enumerate(checked):
        if not isinstance(genotype, Genotype):
            raise DataError(
                f"genotypes[{i}] is a {type(genotype).__name__}; allowed: nas.Genotype, as nas.Genotype.model_validate "
                "and nas.Genotype.from_json return it"
            )
        unknown = [name for name in genotype.layers() if name not in layers]
        if unknown:
            raise DataError(f"genotypes[{i}] reads {unknown}; allowed: {list(layers)}")
    return checked


def _check_device(name: str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"device is {name!r}; allowed: 'cpu', 'cuda' or 'cuda:N' where this machine has one, or None for where the "
            f"features lie ({reason})"
        ) from None


def _has_gaps(name: str, x: Tensor, rows: Tensor, where: str) -> bool:
    """Return whether one of the rows is zeros throughout; DataError unless all are finite."""
    flat = x.flatten(1)  # of whole layers, and by extremes: four times as fast as isfinite of the rows that are read
    most, least = (extreme[rows.to(x.device)] for extreme in (flat.amax(dim=1), flat.amin(dim=1)))
    finite = most.isfinite() & least.isfinite()
    if not finite.all():
        bad = rows[(~finite).nonzero()[0].cpu()].item()
        raise DataError(f"features[{name!r}] holds values that are not finite, first in row {bad}{where}")
    return bool(((most == 0) & (least == 0)).any())


def _check_mapping(features: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    if not isinstance(features, Mapping):
        raise DataError(
            f"features is a {type(features).__name__}; allowed: a dict {{'visual/NAME' or 'audio/NAME': (N, L, C_in)}}"
        )
    return features


def _check_shapes(features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return {layer: (V, N, L, C_in)}; a layer without a views axis has one view."""
    if len(_check_mapping(features)) < 2:
        raise DataError(f"features has the layers {list(features)}; allowed: at least two, since a cell reads two")
    stacked: dict[str, Tensor] = {}
    for name, x in features.items():
        if not is_layer(name):
            raise DataError(f"features has the layer {name!r}; allowed: 'visual/NAME' or 'audio/NAME'")
        if not isinstance(x, Tensor) or x.dtype not in (torch.float16, torch.float32):
            given = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise DataError(f"features[{name!r}] is {given}; allowed: a torch tensor of float16 or float32")
        if x.ndim not in (3, 4) or 0 in x.shape:
            raise DataError(
                f"features[{name!r}] has shape {tuple(x.shape)}; allowed: (N, L, C_in) or (V, N, L, C_in), none of "
                "them 0"
            )
        stacked[name] = x if x.ndim == 4 else x[None]
        first_name, first = next(iter(stacked.items()))
        for axis, what in ((0, "views V"), (1, "windows N"), (2, "positions L")):
            if stacked[name].shape[axis] != first.shape[axis]:
                raise DataError(
                    f"features[{name!r}] has {stacked[name].shape[axis]} {what}; allowed: the {first.shape[axis]} of "
                    f"features[{first_name!r}]"
                )
    return stacked


def _check_labels(labels: Any, count: int) -> Tensor:
    allowed = f"({count},) of 0 (real) and 1 (fake), one per window of features"
    if labels is None:
        raise DataError(f"labels is None; allowed: {allowed}")
    try:
        given = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    except ValueError:
        raise DataError(f"labels holds rows of different lengths; allowed: 0 (real) and 1 (fake), {allowed}") from None
    if given.dtype.kind not in "biuf":
        first = next(iter(given.flat), None)
        raise DataError(f"labels holds {str(first)!r}; allowed: 0 (real) and 1 (fake): map the names to them")
    target = torch.tensor(given)  # a copy: pandas gives an array that may not be written to
    if target.shape != (count,):
        raise DataError(f"labels has shape {tuple(target.shape)}; allowed: {allowed}")
    wrong = target[(target != 0) & (target != 1)]
    if len(wrong):
        raise DataError(f"labels holds {wrong[0].item()}; allowed: 0 (real) and 1 (fake)")
    return target.long()


def _check_split(split: Sequence[str], labels: Tensor) -> dict[str, Tensor]:
    """Return {part: its rows} of SPLITS."""
    allowed = f"({len(labels)},) of {', '.join(SPLITS)}, one per window of features"
    if isinstance(split, str) or not isinstance(split, Iterable):
        raise DataError(f"split is {split!r}; allowed: {allowed}")
    names = [str(name) for name in split]
    if len(names) != len(labels):
        raise DataError(f"split has length {len(names)}; allowed: {allowed}")
    for name in names:
        if name not in SPLITS:
            raise DataError(f"split holds {name!r}; allowed: {', '.join(SPLITS)}")
    rows = {part: torch.tensor([i for i, name in enumerate(names) if name == part]).long() for part in SPLITS}
    for part in ("train", "val"):
        if len(rows[part]) == 0:
            raise DataError(f"split has no {part!r} rows; allowed: at least one of each class in train and in val")
        present = sorted(set(labels[rows[part]].tolist()))
        if len(present) < 2:
            raise DataError(f"split {part!r} holds only labels {present}; allowed: both classes, 0 and 1")
    return rows
