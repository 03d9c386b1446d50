"""The two tables that every number of an evaluation comes from.

clips.csv   a row a clip of the cache, all splits: what it is, and the properties of its file
scores.csv  a row a window of val and test, system and seed; score = P(fake); label and category: the window's own
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd

from cache_schemas.tables import read_table

SCORES = (
    "clip_id", "window", "start_s", "end_s", "split", "subject_id", "category", "method", "label", "clip_category",
    "system", "seed", "score",
)  # fmt: skip
CLIPS = (
    "clip_id", "path", "dataset", "group", "subject_id", "split", "category", "method", "label", "windows",
    "video_segments", "audio_segments",
)  # fmt: skip
"""Then the properties, and what decides whether a clip is judged: the quantities of `statistics.limits`."""
_TEXTS = (
    "clip_id", "path", "dataset", "group", "subject_id", "split", "category", "method", "video_segments",
    "audio_segments", "clip_category", "system",
)  # fmt: skip


class EvaluationError(ValueError):
    """A table of an evaluation cannot be used; the message names it and what it lacks."""


def read_clips(path: Path) -> pd.DataFrame:
    """clips.csv as it was written, every digit; raises EvaluationError where columns are missing."""
    return _read(path, CLIPS)


def read_scores(path: Path) -> pd.DataFrame:
    """scores.csv, likewise."""
    return _read(path, SCORES)


def _read(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    try:
        found = read_exact(path, _TEXTS)
    except FileNotFoundError:
        raise EvaluationError(f"{path} does not exist: run `bmnas evaluate` first") from None
    except (ValueError, pd.errors.ParserError) as error:
        raise EvaluationError(f"{path} cannot be read as a table: {error}") from None
    lacking = [name for name in columns if name not in found]
    if lacking:
        raise EvaluationError(f"{path} lacks {', '.join(lacking)}: run `bmnas evaluate` again")
    return found


def read_exact(path: Path, texts: Collection[str]) -> pd.DataFrame:
    """The table with every digit, and with the columns `texts` as text: neither is an empty one, nor "NA", a number."""
    header = pd.read_csv(path, nrows=0)
    numbers = {name: [""] for name in header if name not in texts}
    kinds: Any = {name: str for name in header if name in texts}
    return read_table(path, dtype=kinds, keep_default_na=False, na_values=numbers)
