"""Command `recompute`: every number of an evaluation and its protocols derived again, of their tables alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cache_schemas.evaluation import read_evaluation, read_protocol_scores
from cache_schemas.metrics import EvaluationError, read_metrics
from cache_schemas.protocol import read_protocol
from pipeline.runs.looks import name_of_test
from pipeline.statistics.audit import TRIMMED, Finding, check_properties, check_random_weights
from pipeline.statistics.measure import measure
from pipeline.statistics.protocol import every_test, measure_protocol, plain_rows, what_is_added

CLOSE = 1e-6
"""Numbers agree that differ by no more than this share: another machine may round the last digits otherwise."""
_LEAST = 1e-9  # what counts as 0
_PARTLY = ("audit", "looks")  # some of what they hold is derived


@dataclass(frozen=True)
class Difference:
    """A value that the tables do not give; `place`: file and path in it; None where one side has nothing there."""

    place: str
    told: Any
    derived: Any


@dataclass(frozen=True)
class Recomputed:
    """numbers: how many were compared; apart: what is told that no table holds, such as the cache's name."""

    numbers: int
    different: list[Difference]
    apart: list[str]


def recompute(folder: Path) -> Recomputed:
    """folder: work/report, work/evaluate, or work; protocols are those in the folder `protocols` below it.

    Raises EvaluationError or RunFileError where files are missing or of another version.
    """
    evaluation = folder if (folder / "metrics.json").exists() else folder / "evaluate"
    numbers, different, apart = 0, [], []
    pairs = [_evaluation(evaluation), *map(_protocol, sorted((folder / "protocols").glob("*/protocol.json")))]
    for path, told, derived in pairs:
        kept, rest = _parted(told, derived)
        apart += [f"{path.relative_to(folder)}: {name}" for name in rest]
        found = list(_compared(kept, derived, ""))
        numbers += sum(_is_number(each.told) or _is_number(each.derived) for each in found)
        different += [
            Difference(f"{path.relative_to(folder)}: {each.place}", each.told, each.derived)
            for each in found
            if not _agree(each.told, each.derived)
        ]
    return Recomputed(numbers, different, apart)


def _evaluation(folder: Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    told = read_metrics(folder)
    if "seed" not in told:
        raise EvaluationError(f"{folder / 'metrics.json'} does not tell its seed: run `bmnas evaluate` again")
    clips, scores = read_evaluation(folder)
    derived = measure(clips, scores, seed=told["seed"])
    if "audit" in told:
        told["audit"] = {each["check"]: each for each in told["audit"]}
        derived["audit"] = {each["check"]: each for each in _audit(clips, scores, told)}
    if "looks" in told:
        derived["looks"] = {"test": name_of_test(clips)}
    return folder / "metrics.json", told, derived


def _audit(clips: pd.DataFrame, scores: pd.DataFrame, told: Mapping[str, Any]) -> list[Finding]:
    """The findings that the tables alone give; that windows begin behind the silence is taken as it is told."""
    table, test = clips.set_index("clip_id"), scores[scores["split"] == "test"]
    trimmed = any(each["says"].endswith(TRIMMED) for each in told["audit"].values())
    return [*check_properties(table, trimmed=trimmed), check_random_weights(table, test, seed=told["seed"])]


def _protocol(path: Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    told = read_protocol(path)
    tests = every_test(read_protocol_scores(path.parent / "scores.csv"), seed=told["seed"])
    first = told["protocol"]["methods"][0]
    rows = plain_rows(measure_protocol(tests).assign(cache=told["cache"]))
    return path, told, {"rows": rows, "adds": what_is_added(tests, first)}


def _parted(told: Mapping[str, Any], derived: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """(what of it is derived, the names of the rest)"""
    kept, rest = {}, []
    for name, value in told.items():
        if name not in derived:
            rest.append(name)
        elif name in _PARTLY:
            kept[name], more = _parted(value, derived[name])
            rest += [f"{name}: {each}" for each in more]
        else:
            kept[name] = value
    return kept, rest


def _compared(told: Any, derived: Any, place: str) -> Iterator[Difference]:
    """Every leaf of both, side by side."""
    if isinstance(told, Mapping) and isinstance(derived, Mapping):
        for key in dict.fromkeys([*told, *derived]):
            yield from _compared(told.get(key), derived.get(key), f"{place}.{key}" if place else str(key))
    elif isinstance(told, list) and isinstance(derived, list) and len(told) == len(derived):
        for i, (one, other) in enumerate(zip(told, derived, strict=True)):
            yield from _compared(one, other, f"{place}[{i}]")
    else:
        yield Difference(place, told, derived)


def _agree(told: Any, derived: Any) -> bool:
    if _is_number(told) and _is_number(derived):
        return math.isclose(told, derived, rel_tol=CLOSE, abs_tol=_LEAST)
    return bool(told == derived)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
