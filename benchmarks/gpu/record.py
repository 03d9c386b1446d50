"""What a run of `make gpu` leaves: one JSON file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = 1
"""Raise it when a field means something else or is gone."""


@dataclass(frozen=True)
class Figure:
    """One number. goal: what was aimed at, as words; empty where nothing was."""

    name: str
    value: float
    unit: str
    goal: str = ""


@dataclass
class Part:
    """What became of one part: how it ended, what it measured, and what its tests said.

    status: ok, failed (see error) or late (it was ended after budget_s; what it had measured by then is kept).
    """

    name: str
    title: str
    budget_s: float
    status: str = "ok"
    seconds: float = 0.0
    error: str = ""
    figures: list[Figure] = field(default_factory=list)
    passed: int = 0
    skipped: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    """{test: the last line of why}"""


@dataclass(frozen=True)
class Record:
    """A whole run. machine: device, driver, torch and the like, in words; dry: on the CPU, in small."""

    machine: dict[str, str]
    date: str
    commit: str
    dry: bool
    seconds: float
    parts: list[Part]


def write_record(path: Path, record: Record) -> None:
    """Replaces the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"schema": SCHEMA, **asdict(record)}, indent=2) + "\n")


def read_record(path: Path) -> Record:
    """The run in the file; raises ValueError where it is of another schema."""
    content: dict[str, Any] = json.loads(path.read_text())
    if (found := content.pop("schema", None)) != SCHEMA:
        raise ValueError(f"{path} has schema {found!r}; allowed: {SCHEMA}: run `make gpu` again")
    parts = [part | {"figures": [Figure(**figure) for figure in part["figures"]]} for part in content.pop("parts")]
    return Record(**content, parts=[Part(**part) for part in parts])


def write_figures(path: Path, figures: Sequence[Figure]) -> None:
    """What a part has measured up to now: written after each figure, for a part may be ended in the middle."""
    path.write_text(json.dumps([asdict(figure) for figure in figures]))


def read_figures(path: Path) -> list[Figure]:
    """None where the part was ended before its first one."""
    return [Figure(**figure) for figure in json.loads(path.read_text())] if path.exists() else []
