"""Command `recompute`: every number of an evaluation and its protocols derived again, of their tables alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache_schemas.evaluation import EvaluationError, read_evaluation, read_exact, read_metrics
from cache_schemas.run import read_json
from pipeline.statistics.measure import measure
from pipeline.statistics.protocol import every_test, measure_protocol, plain_rows, what_is_added

CLOSE = 1e-6
"""Numbers agree that differ by no more than this share: another machine may round the last digits otherwise."""
_LEAST = 1e-9  # what counts as 0
_TEXTS = ("clip_id", "person", "trained_on", "tested_on", "method")


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
        apart += [f"{path.relative_to(folder)}: {name}" for name in told if name not in derived]
        found = list(_compared({name: told.get(name) for name in derived}, derived, ""))
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
    return folder / "metrics.json", told, measure(*read_evaluation(folder), seed=told["seed"])


def _protocol(path: Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    told = read_json(path, "protocol")
    if "seed" not in told:
        raise EvaluationError(f"{path} does not tell its seed: run `bmnas protocol` again")
    tests = every_test(read_exact(path.parent / "scores.csv", _TEXTS), seed=told["seed"])
    first = told["protocol"]["methods"][0]
    rows = plain_rows(measure_protocol(tests).assign(cache=told["cache"]))
    return path, told, {"rows": rows, "adds": what_is_added(tests, first)}


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
