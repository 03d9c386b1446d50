"""Finished runs: one JSON file per batch, so that a killed process loses no more than the batches it was at.

FOLDER/DIGEST.json         {"runs": {key: row}}; a file that exists is whole
FOLDER/KEY.safetensors     what else belongs to a run, where its row names such a file
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from cache_schemas.files import digest, write_text
from cache_schemas.run import RunFileError, SearchEntry


class RunRow(BaseModel, extra="forbid", frozen=True):
    """One finished run. failed: why it has no result, or "".

    seconds: its share of its batch's time on one worker. file: what lies beside the rows and belongs to it, or "".
    """

    seed: int
    failed: str = ""
    seconds: float = 0.0
    file: str = ""


class SearchRow(RunRow):
    """One search: its settings, and what it found, as search.json tells it.

    scores: val AUC of the architectures to judge, with the shared weights; None where it is undefined.
    """

    settings: dict[str, Any]
    found: SearchEntry | None = None
    scores: list[float | None] = []


class TrainingRow(RunRow):
    """One architecture trained from scratch; test_auc is per window, and None where the test split was not looked at.

    file: its weights, where they are kept.
    """

    genotype: dict[str, Any]
    spec: dict[str, Any] = {}
    best_epoch: int = 0
    curves: list[dict[str, float | None]] = []
    parameters: int = 0
    test_auc: float | None = None

    @property
    def val_auc(self) -> float | None:
        """That of the epoch whose weights were kept, per window."""
        return None if self.failed else self.curves[self.best_epoch]["val_auc"]


class ScoredRow(RunRow):
    """One method's network of one seed; scores: P(fake) of every window (N,), in the cache's order."""

    method: str
    parameters: int = 0
    scores: list[float] = []


Row = TypeVar("Row", bound=RunRow)


class FinishedRuns(Generic[Row]):
    """The runs in a folder; a run's key names all that its result depends on."""

    def __init__(self, folder: Path, kind: type[Row]) -> None:
        self.folder, self.kind = folder, kind

    def read(self, keys: Collection[str]) -> dict[str, Row]:
        """{key: row} of the finished; one whose file is gone is not. Raises RunFileError for what cannot be read."""
        found: dict[str, Row] = {}
        for path in sorted(self.folder.glob("*.json")):
            try:
                runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
                rows = {key: self.kind.model_validate(row) for key, row in runs.items() if key in keys}
            except ValueError as error:
                why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else f"is not JSON ({error})"
                raise RunFileError(f"{path}: {why}: remove the file, and its runs are done again") from None
            found |= {key: row for key, row in rows.items() if not row.file or (self.folder / row.file).exists()}
        return found

    def add(self, rows: Mapping[str, Row]) -> None:
        """Keep one batch, as a whole or not at all."""
        content = {"runs": {key: row.model_dump(mode="json") for key, row in rows.items()}}
        text = json.dumps(content, separators=(",", ":"), allow_nan=False)
        write_text(self.folder / f"{digest(sorted(rows))}.json", text)
