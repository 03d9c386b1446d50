"""The two tables that every number of an evaluation comes from.

clips.csv   a row a clip of the cache, all splits: what it is, and the properties of its file
scores.csv  a row a window of val and test, system and seed; score = P(fake); label and category: the window's own

metrics.json, beside them, holds those numbers. What is read of files that others may have touched is checked here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cache_schemas.run import RunFileError, read_json
from cache_schemas.tables import read_table

SCORES = (
    "clip_id", "window", "start_s", "end_s", "split", "subject_id", "category", "method", "label", "clip_category",
    "system", "seed", "score",
)  # fmt: skip
CLIPS = (
    "clip_id", "path", "dataset", "group", "subject_id", "split", "category", "method", "label", "windows",
    "video_segments", "audio_segments",
)  # fmt: skip
PROPERTIES = ("duration_s", "leading_silence_s", "loudness_db", "width_px", "height_px", "fps", "file_bytes")
"""Then these, and what decides whether a clip is judged: the quantities of `statistics.limits`."""
METRICS_VERSION = 2
_AGAIN = "run `bmnas evaluate` again"
_TEXTS = (
    "clip_id", "path", "dataset", "group", "subject_id", "split", "category", "method", "video_segments",
    "audio_segments", "clip_category", "system",
)  # fmt: skip


class EvaluationError(RunFileError):
    """A table of an evaluation cannot be used; the message names it and what it lacks."""


def read_metrics(folder: Path) -> dict[str, Any]:
    """The folder's metrics.json; raises RunFileError where it is missing, damaged, or another version's."""
    path = folder / "metrics.json"
    content = read_json(path, "evaluate")
    if (version := content.get("schema_version")) != METRICS_VERSION:
        raise EvaluationError(f"{path} is of version {version}, {METRICS_VERSION} is needed: {_AGAIN}")
    if "headline" not in content:
        raise EvaluationError(f"{path} lacks headline: {_AGAIN}")
    return content


def read_evaluation(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(clips.csv, scores.csv) of the folder, each whole by itself and both at one.

    Raises EvaluationError where one is missing or damaged, or says what the other does not: a figure made of some
    columns would otherwise not be the one that others give.
    """
    paths = folder / "clips.csv", folder / "scores.csv"
    clips, scores = read_clips(paths[0]), read_scores(paths[1])
    for path, table, key in ((paths[0], clips, ["clip_id"]), (paths[1], scores, [*_WINDOW, "system", "seed"])):
        for name in (str(name) for name in table if name not in _TEXTS):
            if not pd.api.types.is_numeric_dtype(table[name]):
                _refuse(path, table, name, pd.to_numeric(table[name], errors="coerce").isna(), "a number")
        _refuse(path, table, "label", ~table["label"].isin([0, 1]), "0 (real) or 1 (fake)")
        _refuse(path, table, "clip_id", table.duplicated(key), f"one row for each {', '.join(key)}")
    _refuse(paths[0], clips, "split", ~clips["split"].isin(["train", "val", "test"]), "train, val or test")
    _refuse(paths[0], clips, "label", clips["label"] != clips["category"].str.contains("F"), "what its category says")
    _refuse(paths[1], scores, "score", ~scores["score"].between(0, 1), "P(fake), from 0 to 1")
    _refuse(paths[1], scores, "split", ~scores["split"].isin(["val", "test"]), "val or test")
    _agree(paths[1], clips, scores)
    return clips, scores


_WINDOW = ("clip_id", "window")


def _agree(path: Path, clips: pd.DataFrame, scores: pd.DataFrame) -> None:
    """Raises EvaluationError where the scores are of other clips, or not of the same windows throughout."""
    at = pd.Index(clips["clip_id"]).get_indexer(scores["clip_id"])
    _refuse(path, scores, "clip_id", at < 0, "a clip of clips.csv")
    for name, theirs in {"split": "split", "subject_id": "subject_id", "clip_category": "category"}.items():
        other = scores[name].to_numpy() != clips[theirs].to_numpy()[at]
        _refuse(path, scores, name, other, f"{theirs} as clips.csv says it")
    windows = scores.groupby(list(_WINDOW), sort=False)
    for name in ("start_s", "end_s", "category", "label"):
        _refuse(
            path, scores, name, scores[name] != windows[name].transform("first"), "what other rows of the window say"
        )
    counts = scores.groupby(["system", "seed"], sort=False).size()
    ragged = counts[counts != windows.ngroups].reset_index(name="windows")
    if len(ragged):
        of = ragged.iloc[0]
        raise EvaluationError(
            f"{path}: system {of['system']}, seed {of['seed']}: scores of {of['windows']} windows, others have "
            f"{windows.ngroups}: {_AGAIN}"
        )


def _refuse(path: Path, table: pd.DataFrame, column: str, wrong: Sequence[bool] | Any, needed: str) -> None:
    """Raises EvaluationError where any row is wrong: names the first, and what it should hold."""
    places = np.flatnonzero(np.asarray(wrong))
    if len(places):
        row = table.iloc[places[0]]
        raise EvaluationError(
            f"{path}: row {places[0] + 1}, clip {row['clip_id']}: {column} is {row[column]}, needed: {needed} "
            f"({len(places)} such rows): {_AGAIN}"
        )


def read_clips(path: Path) -> pd.DataFrame:
    """clips.csv as it was written, every digit; raises EvaluationError where columns are missing."""
    return _read(path, (*CLIPS, *PROPERTIES))


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
