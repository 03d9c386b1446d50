"""The two tables that every number of an evaluation comes from.

clips.csv   a row a clip of the cache, all splits: what it is, and the properties of its file
scores.csv  a row a window of val and test, system and seed; score = P(fake); label and category: the window's own
"""

from __future__ import annotations

from pathlib import Path

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
"""Then the properties."""
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
    try:  # an empty text is no missing number, nor is a person called NA
        found = read_table(path, converters=dict.fromkeys(_TEXTS, str), float_precision="round_trip")
    except FileNotFoundError:
        raise EvaluationError(f"{path} does not exist: run `bmnas evaluate` first") from None
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise EvaluationError(f"{path} cannot be read as CSV: {error}") from None
    lacking = [name for name in columns if name not in found]
    if lacking:
        raise EvaluationError(f"{path} lacks {', '.join(lacking)}: run `bmnas evaluate` again")
    return found
