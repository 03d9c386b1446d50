"""Finished runs of an experiment: one JSON file per batch, so that a killed process loses the batch it was at.

FOLDER/plan.json     {work: how many of its runs a batch holds}: a rerun forms the same batches
FOLDER/DIGEST.json   {"runs": {key: row}}; a file that exists is whole
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from cache_schemas.files import digest, write_json


class RunsError(ValueError):
    """A folder of finished runs cannot be read; the message names the file and the remedy."""


class RunRow(BaseModel):
    """One finished run."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainingRow(RunRow):
    """One architecture trained from scratch once; AUC per window, that on val of the epoch that was kept."""

    genotype: dict[str, Any]
    seed: int
    val_auc: float
    test_auc: float
    best_epoch: int
    parameters: int
    seconds: float
    """its share of its batch's time on one worker"""


class SearchRow(RunRow):
    """One search: its settings, what it picked, and the last row of its curves.

    scores: val AUC of the architectures to judge, with the shared weights. failed: why it found nothing, or "".
    """

    settings: dict[str, Any]
    seed: int
    genotype: dict[str, Any] | None
    last: dict[str, float | None] = {}
    scores: list[float] = []
    failed: str = ""
    seconds: float


Row = TypeVar("Row", bound=RunRow)


class FinishedRuns(Generic[Row]):
    """The runs in a folder; a run's key names all that its result depends on."""

    def __init__(self, folder: Path, kind: type[Row]) -> None:
        self.folder, self.kind = folder, kind

    def read(self) -> dict[str, Row]:
        """{key: row} of every finished run."""
        found: dict[str, Row] = {}
        for path in sorted(self.folder.glob("*.json")):
            if path.name != "plan.json":
                found |= {key: self._row(path, row) for key, row in _load(path)["runs"].items()}
        return found

    def add(self, rows: Mapping[str, Row]) -> None:
        """Keep one batch, as a whole or not at all."""
        content = {"runs": {key: row.model_dump(mode="json") for key, row in rows.items()}}
        write_json(self.folder / f"{digest(sorted(rows))}.json", content)

    def batch_runs(self, work: str, runs: int) -> int:
        """How many runs a batch of this work holds: `runs`, or what an earlier start of the same work decided."""
        path = self.folder / "plan.json"
        plan = _load(path) if path.exists() else {}
        if work not in plan:
            plan[work] = runs
            write_json(path, plan)
        return int(plan[work])

    def _row(self, path: Path, row: object) -> Row:
        try:
            return self.kind.model_validate(row)
        except ValidationError as error:
            raise RunsError(
                f"{path}: {error.errors()[0]['msg']}: remove the file, and its runs are done again"
            ) from None


def _load(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunsError(f"{path} is not JSON ({error}): remove it, and its runs are done again") from None
    return content
