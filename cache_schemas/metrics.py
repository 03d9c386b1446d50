"""metrics.json: the numbers of an evaluation; the tables that they come from are in `cache_schemas.evaluation`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cache_schemas.run import RunFileError, read_json

METRICS_VERSION = 2
AGAIN = "run `bmnas evaluate` again"


class EvaluationError(RunFileError):
    """What an evaluation left cannot be used; the message names the file and what it lacks."""


def read_metrics(folder: Path) -> dict[str, Any]:
    """The folder's metrics.json; raises RunFileError where it is missing, damaged, or another version's."""
    path = folder / "metrics.json"
    content = read_json(path, "evaluate")
    if (version := content.get("schema_version")) != METRICS_VERSION:
        raise EvaluationError(f"{path} is of version {version}, {METRICS_VERSION} is needed: {AGAIN}")
    if "headline" not in content:
        raise EvaluationError(f"{path} lacks headline: {AGAIN}")
    return content
