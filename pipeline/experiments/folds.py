"""Protocols: which clips train, choose and test, in how many folds. Pure: tables of clips in, splits of clips out.

Nobody ever stands on two sides of a fold: whoever is in a clip that is tested is in none that is learnt from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, Field, ValidationError

from cache_schemas.manifest import Clip, ManifestError
from pipeline.manifest.splits import deal_folds
from pipeline.params import ParamsError
from pipeline.statistics.systems import PROBE, SAMPLED

By = Literal["dataset", "method", "group"]
DEFAULT_METHODS = (
    "search", PROBE, "SVM, all layers", "logistic regression, all visual layers",
    "logistic regression, all audio layers", "concatenation MLP", SAMPLED,
)  # fmt: skip
"""`search` is that of params.yaml, retrained."""


class Protocol(BaseModel, extra="forbid", frozen=True):
    """A protocol file."""

    description: str = Field("", description="what its figures say, in one sentence")
    kind: Literal["people", "leave-one-out", "cross", "within"] = Field(
        description="people: folds that share nobody; leave-one-out: each value's clips are tested by networks that "
        "saw none of it; cross: networks of each value are tested on every value; within: people, in each value"
    )
    by: By | None = Field(None, description="what parts the clips: dataset, method (of the fakes) or group")
    folds: int = Field(5, ge=3, le=50, description="folds of people, where people part a value's clips")
    only: dict[By, list[str]] = Field({}, description="leave out clips of other values; real clips have no method")
    methods: tuple[str, ...] = Field(DEFAULT_METHODS, min_length=1, description="of `bmnas baselines`, and search")


BUILT_IN = {
    "people": Protocol(kind="people", description="Other people, of sources and methods that were seen."),
    "in-data-set": Protocol(kind="within", by="dataset", description="Other people of the same data set."),
    "cross-data-set": Protocol(kind="cross", by="dataset", description="Trained on one data set, tested on each."),
    "leave-one-source-out": Protocol(
        kind="leave-one-out", by="dataset", description="A source of which nothing was seen in training."
    ),
    "leave-one-method-out": Protocol(
        kind="leave-one-out", by="method", description="Other people, faked by a method that was not seen in training."
    ),
    "leave-one-group-out": Protocol(
        kind="leave-one-out", by="group", description="A demographic group of which nobody was seen in training."
    ),
}


def read_protocol(name: str) -> tuple[str, Protocol]:
    """(its name, the protocol): of BUILT_IN, or of the YAML file of that path; raises ParamsError."""
    if name in BUILT_IN:
        return name, BUILT_IN[name]
    path = Path(name)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(
            f"protocol {name}: there is neither such a file nor such a name: {', '.join(BUILT_IN)}"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParamsError(f"{path}: cannot be read as YAML: {error}") from None
    try:
        found = Protocol.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "(file)"
        allowed = ", ".join(Protocol.model_fields)
        raise ParamsError(f"{path}: field {place}: {first['msg']} (fields: {allowed})") from None
    if (found.kind == "people") != (found.by is None):
        raise ParamsError(f"{path}: by: {found.by}: kind {found.kind} {'takes none' if found.by else 'needs one'}")
    return path.stem, found


@dataclass(frozen=True)
class Fold:
    """One training. Folds of the same `trained_on` are parts of one: their tests are measured together."""

    trained_on: str
    split: tuple[str, ...]
    """(clips,) train, val, test; "": unused"""
    tested_as: tuple[str, ...]
    """(clips,) what is measured together; "" where nothing is tested"""


@dataclass(frozen=True)
class Skipped:
    """A training that cannot be."""

    trained_on: str
    reason: str


def folds_of(protocol: Protocol, clips: Sequence[Clip], *, seed: int) -> list[Fold | Skipped]:
    """The trainings of a protocol on these clips; raises ManifestError when none can be."""
    chosen = [i for i, clip in enumerate(clips) if all(_has(clip, by, among) for by, among in protocol.only.items())]
    found = [
        _widened(fold, chosen, len(clips)) if isinstance(fold, Fold) else fold
        for fold in _KINDS[protocol.kind](protocol, [clips[i] for i in chosen], seed)
    ]
    if not any(isinstance(fold, Fold) for fold in found):
        reasons = "; ".join(dict.fromkeys(fold.reason for fold in found if isinstance(fold, Skipped)))
        raise ManifestError(
            f"protocol {protocol.kind} by {protocol.by}: no training is possible: {reasons or 'no clips'}"
        )
    return found


def _people(protocol: Protocol, clips: Sequence[Clip], seed: int) -> Iterator[Fold | Skipped]:
    yield from _parts("other people", "all", clips, protocol.folds, seed)


def _within(protocol: Protocol, clips: Sequence[Clip], seed: int) -> Iterator[Fold | Skipped]:
    for value in _values(clips, protocol.by):
        mine = [i for i, clip in enumerate(clips) if _value(clip, protocol.by) == value]
        for fold in _parts(value, value, [clips[i] for i in mine], protocol.folds, seed):
            yield _widened(fold, mine, len(clips)) if isinstance(fold, Fold) else fold


def _leave_one_out(protocol: Protocol, clips: Sequence[Clip], seed: int) -> Iterator[Fold | Skipped]:
    by_method = protocol.by == "method"  # real clips have none: people part them, alike for every method
    parts = list(_parts("", "", clips, protocol.folds, seed)) if by_method else []
    for value in _values(clips, protocol.by):
        for part in parts:
            named = replace(part, trained_on=f"all but {value}")
            yield _without_method(named, value, clips) if isinstance(named, Fold) else named
        if not by_method:
            yield _checked(_tested_whole(value, clips, protocol, seed), clips)


def _cross(protocol: Protocol, clips: Sequence[Clip], seed: int) -> Iterator[Fold | Skipped]:
    """All clips of other values are tested by each part of a value's networks, its own by those that saw them not."""
    for value in _values(clips, protocol.by):
        mine = [i for i, clip in enumerate(clips) if _value(clip, protocol.by) == value]
        for fold in _parts(value, value, [clips[i] for i in mine], protocol.folds, seed):
            if isinstance(fold, Skipped):
                yield fold
                continue
            split = list(_widened(fold, mine, len(clips)).split)
            learnt = {p for s, clip in zip(split, clips, strict=True) if s in ("train", "val") for p in clip.people}
            for i, clip in enumerate(clips):
                if _value(clip, protocol.by) != value and not clip.people & learnt:
                    split[i] = "test"
            yield Fold(value, tuple(split), _tested(split, [_value(clip, protocol.by) for clip in clips]))


_KINDS: dict[str, Callable[[Protocol, Sequence[Clip], int], Iterator[Fold | Skipped]]] = {
    "people": _people,
    "within": _within,
    "leave-one-out": _leave_one_out,
    "cross": _cross,
}


def _parts(trained_on: str, tested_as: str, clips: Sequence[Clip], folds: int, seed: int) -> Iterator[Fold | Skipped]:
    """Each fold of people is tested once, by networks that were chosen on the next one and trained on the others."""
    try:
        dealt = deal_folds(clips, folds, seed=seed)
    except ManifestError as error:
        yield Skipped(trained_on, str(error))
        return
    for k in range(folds):
        names = {0: "test", 1: "val"}
        split = [names.get((dealt[clip.clip_id] - k) % folds, "train") for clip in clips]
        yield _checked(Fold(trained_on, tuple(split), _tested(split, [tested_as] * len(clips))), clips)


def _tested_whole(value: str, clips: Sequence[Clip], protocol: Protocol, seed: int) -> Fold | Skipped:
    """All else that shows nobody who is tested is learnt from, but for a fold of its people, which chooses."""
    name, tested = f"all but {value}", [_value(clip, protocol.by) == value for clip in clips]
    shown = {person for clip, is_tested in zip(clips, tested, strict=True) if is_tested for person in clip.people}
    rest = [clip for clip, is_tested in zip(clips, tested, strict=True) if not is_tested and not clip.people & shown]
    try:
        dealt = deal_folds(rest, protocol.folds, seed=seed)
    except ManifestError as error:
        return Skipped(name, str(error))
    side = {clip.clip_id: "val" if dealt[clip.clip_id] == 0 else "train" for clip in rest}
    split = ["test" if t else side.get(clip.clip_id, "") for clip, t in zip(clips, tested, strict=True)]
    return Fold(name, tuple(split), _tested(split, [value] * len(clips)))


def _without_method(fold: Fold, method: str, clips: Sequence[Clip]) -> Fold | Skipped:
    """Its fakes are tested, with the real clips; those of other methods are learnt from."""
    split = [
        "" if clip.label and (clip.method == method) != (side == "test") else side
        for clip, side in zip(clips, fold.split, strict=True)
    ]
    return _checked(Fold(fold.trained_on, tuple(split), _tested(split, [method] * len(split))), clips)


def _checked(fold: Fold | Skipped, clips: Sequence[Clip]) -> Fold | Skipped:
    """Networks need both classes to learn and to choose."""
    if isinstance(fold, Skipped):
        return fold
    for side in ("train", "val"):
        labels = {clip.label for clip, s in zip(clips, fold.split, strict=True) if s == side}
        if labels != {0, 1}:
            held = "no clips" if not labels else f"only {'fake' if labels == {1} else 'real'} clips"
            return Skipped(fold.trained_on, f"{held} to {'train on' if side == 'train' else 'choose by'}")
    return fold


def _tested(split: Sequence[str], tested_as: Sequence[str]) -> tuple[str, ...]:
    return tuple(name if side == "test" else "" for side, name in zip(split, tested_as, strict=True))


def _widened(fold: Fold, places: Sequence[int], length: int) -> Fold:
    """The fold of clips that stand at these places among `length`."""
    split, tested_as = [""] * length, [""] * length
    for place, side, name in zip(places, fold.split, fold.tested_as, strict=True):
        split[place], tested_as[place] = side, name
    return Fold(fold.trained_on, tuple(split), tuple(tested_as))


def _values(clips: Sequence[Clip], by: By | None) -> list[str]:
    found = {_value(clip, by) for clip in clips if by != "method" or clip.label}
    return sorted(found - {""})


def _value(clip: Clip, by: By | None) -> str:
    return str(getattr(clip, str(by)))


def _has(clip: Clip, by: By, among: Sequence[str]) -> bool:
    return (by == "method" and not clip.label) or _value(clip, by) in among
