"""What a protocol leaves: protocol.json, and the table that all its figures come from.

scores.csv  a row a clip tested, training, fold, method and seed; score = P(fake), threshold: that val chose for the
            seeds' mean score; `cache_schemas.evaluation` reads it
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cache_schemas.metrics import EvaluationError
from cache_schemas.run import read_json

PROTOCOL_VERSION = 2
_NEEDED = ("protocol", "seed", "cache", "adds", "rows", "skipped")
PROTOCOL_AGAIN = "run `bmnas protocol` again (what is trained is kept)"


def read_protocol(path: Path) -> dict[str, Any]:
    """A protocol.json; raises RunFileError where it is missing, damaged, or another version's."""
    content = read_json(path, "protocol")
    if (version := content.get("schema_version")) != PROTOCOL_VERSION:
        raise EvaluationError(f"{path} is of version {version}, {PROTOCOL_VERSION} is needed: {PROTOCOL_AGAIN}")
    lacking = [name for name in _NEEDED if name not in content]
    if lacking:
        raise EvaluationError(f"{path} lacks {', '.join(lacking)}: {PROTOCOL_AGAIN}")
    return content
