"""What a protocol leaves: protocol.json, and the table that all its figures come from.

scores.csv  a row a clip tested, training, fold, method and seed; score = P(fake), threshold: that val chose for the
            seeds' mean score
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from cache_schemas.evaluation import EvaluationError, Table
from cache_schemas.run import read_json

PROTOCOL_VERSION = 2
_NEEDED = ("protocol", "seed", "cache", "adds", "rows", "skipped")
_TEXTS = ("clip_id", "person", "trained_on", "tested_on", "method")
_AGAIN = "run `bmnas protocol` again (what is trained is kept)"


def read_protocol(path: Path) -> dict[str, Any]:
    """A protocol.json; raises RunFileError where it is missing, damaged, or another version's."""
    content = read_json(path, "protocol")
    if (version := content.get("schema_version")) != PROTOCOL_VERSION:
        raise EvaluationError(f"{path} is of version {version}, {PROTOCOL_VERSION} is needed: {_AGAIN}")
    lacking = [name for name in _NEEDED if name not in content]
    if lacking:
        raise EvaluationError(f"{path} lacks {', '.join(lacking)}: {_AGAIN}")
    return content


def read_protocol_scores(path: Path) -> pd.DataFrame:
    """A protocol's scores.csv, every digit; raises EvaluationError where a row cannot be, and names it."""
    table = Table.read(path, (*_TEXTS, "label", "seed", "score", "threshold"), _TEXTS, _AGAIN)
    rows = table.rows
    table.refuse("seed", rows["seed"].isna(), "a number")
    table.refuse("label", ~rows["label"].isin([0, 1]), "0 (real) or 1 (fake)")
    table.refuse("score", ~rows["score"].between(0, 1), "P(fake), from 0 to 1")
    table.refuse("threshold", ~rows["threshold"].between(0, 1), "a score, from 0 to 1")
    table.refuse_apart(["clip_id"], ["label", "person"])
    return rows
