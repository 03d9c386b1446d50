"""The two tables that every number of an evaluation comes from.

clips.csv   a row a clip of the cache, all splits: what it is, and the properties of its file
scores.csv  a row a window of val and test, system and seed; score = P(fake); label and category: the window's own

What is read of tables that others may have touched is checked here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cache_schemas.metrics import AGAIN, EvaluationError
from cache_schemas.protocol import PROTOCOL_AGAIN
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
_TEXTS = (
    "clip_id", "path", "dataset", "group", "subject_id", "split", "category", "method", "video_segments",
    "audio_segments", "clip_category", "system",
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A table that others may have touched, and what is to be done where a row of it cannot be."""

    path: Path
    rows: pd.DataFrame
    again: str

    @classmethod
    def read(cls, path: Path, columns: Sequence[str], texts: Collection[str], again: str) -> Table:
        """Every digit of it; raises EvaluationError where it, or a column, is missing, or a number is none.

        Columns `texts` are text: neither an empty one, nor "NA", is a number.
        """
        try:
            header = [str(name) for name in pd.read_csv(path, nrows=0)]
            numbers = {name: [""] for name in header if name not in texts}
            kinds: Any = {name: str for name in header if name in texts}
            rows = read_table(path, dtype=kinds, keep_default_na=False, na_values=numbers)
        except FileNotFoundError:
            raise EvaluationError(f"{path} does not exist: {again.replace(' again', ' first')}") from None
        except (ValueError, pd.errors.ParserError) as error:
            raise EvaluationError(f"{path} cannot be read as a table: {error}: {again}") from None
        lacking = [name for name in columns if name not in header]
        if lacking:
            raise EvaluationError(f"{path} lacks {', '.join(lacking)}: {again}")
        table = cls(path, rows, again)
        for name in numbers:
            if not pd.api.types.is_numeric_dtype(rows[name]):
                table.refuse(name, pd.to_numeric(rows[name], errors="coerce").isna(), "a number")
        return table

    def refuse(self, column: str, wrong: Sequence[bool] | Any, needed: str) -> None:
        """Raises EvaluationError where any row is wrong: names the first, and what it should hold."""
        places = np.flatnonzero(np.asarray(wrong))
        if len(places):
            row = self.rows.iloc[places[0]]
            raise EvaluationError(
                f"{self.path}: row {places[0] + 1}, clip {row['clip_id']}: {column} is {row[column]}, needed: {needed} "
                f"({len(places)} such rows): {self.again}"
            )

    def refuse_apart(self, key: list[str], columns: Sequence[str]) -> None:
        """Raises EvaluationError where rows of one key do not agree in these columns."""
        groups = self.rows.groupby(key, sort=False)
        for name in columns:
            self.refuse(
                name, self.rows[name] != groups[name].transform("first"), f"what other rows of its {key[-1]} say"
            )


def read_evaluation(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(clips.csv, scores.csv) of the folder, each whole by itself and both at one.

    Raises EvaluationError where one is missing or damaged, or says what the other does not: a figure made of some
    columns would otherwise not be the one that others give.
    """
    clips = Table.read(folder / "clips.csv", (*CLIPS, *PROPERTIES), _TEXTS, AGAIN)
    scores = Table.read(folder / "scores.csv", SCORES, _TEXTS, AGAIN)
    for table, key in ((clips, ["clip_id"]), (scores, [*_WINDOW, "system", "seed"])):
        table.refuse("label", ~table.rows["label"].isin([0, 1]), "0 (real) or 1 (fake)")
        table.refuse("clip_id", table.rows.duplicated(key), f"one row for each {', '.join(key)}")
    clips.refuse("split", ~clips.rows["split"].isin(["train", "val", "test"]), "train, val or test")
    clips.refuse("label", clips.rows["label"] != clips.rows["category"].str.contains("F"), "what its category says")
    scores.refuse("score", ~scores.rows["score"].between(0, 1), "P(fake), from 0 to 1")
    scores.refuse("split", ~scores.rows["split"].isin(["val", "test"]), "val or test")
    _agree(clips.rows, scores)
    return clips.rows, scores.rows


_WINDOW = ["clip_id", "window"]


def _agree(clips: pd.DataFrame, scores: Table) -> None:
    """Raises EvaluationError where the scores are of other clips, or not of the same windows throughout."""
    rows = scores.rows
    at = pd.Index(clips["clip_id"]).get_indexer(rows["clip_id"])
    scores.refuse("clip_id", at < 0, "a clip of clips.csv")
    for name, theirs in {"split": "split", "subject_id": "subject_id", "clip_category": "category"}.items():
        other = rows[name].to_numpy() != clips[theirs].to_numpy()[at]
        scores.refuse(name, other, f"{theirs} as clips.csv says it")
    scores.refuse_apart(_WINDOW, ["start_s", "end_s", "category", "label"])
    counts = rows.groupby(["system", "seed"], sort=False).size()
    windows = rows.groupby(_WINDOW).ngroups
    ragged = counts[counts != windows].reset_index(name="windows")
    if len(ragged):
        of = ragged.iloc[0]
        raise EvaluationError(
            f"{scores.path}: system {of['system']}, seed {of['seed']}: scores of {of['windows']} windows, others have "
            f"{windows}: {AGAIN}"
        )


_PROTOCOL_TEXTS = ("clip_id", "person", "trained_on", "tested_on", "method")


def read_protocol_scores(path: Path) -> pd.DataFrame:
    """A protocol's scores.csv, every digit; raises EvaluationError where a row cannot be, and names it."""
    table = Table.read(path, (*_PROTOCOL_TEXTS, "label", "seed", "score", "threshold"), _PROTOCOL_TEXTS, PROTOCOL_AGAIN)
    rows = table.rows
    table.refuse("seed", rows["seed"].isna(), "a number")
    table.refuse("label", ~rows["label"].isin([0, 1]), "0 (real) or 1 (fake)")
    table.refuse("score", ~rows["score"].between(0, 1), "P(fake), from 0 to 1")
    table.refuse("threshold", ~rows["threshold"].between(0, 1), "a score, from 0 to 1")
    table.refuse_apart(["clip_id"], ["label", "person"])
    return rows
