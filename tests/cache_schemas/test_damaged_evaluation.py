"""Tables and metrics of an evaluation that somebody, or a full disk, has touched: refused, with file, row and value."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cache_schemas.evaluation import read_evaluation
from cache_schemas.metrics import read_metrics
from cache_schemas.run import RunFileError
from cache_schemas.tables import write_table
from tests.pipeline.run_fixture import make_clips, make_index, make_scores

INDEX = make_index(subjects=10)
CLIPS, SCORES = make_clips(INDEX), make_scores(INDEX, seeds=(0, 1), networks=["fusion"])
Change = Callable[[pd.DataFrame], pd.DataFrame]


def first(column: str, value: object) -> Change:
    """Sets one cell of the first row."""
    return lambda table: table.astype({column: object}).assign(**{column: [value, *table[column].iloc[1:]]})


def write(folder: Path, clips: pd.DataFrame, scores: pd.DataFrame) -> None:
    write_table(folder / "clips.csv", clips)
    write_table(folder / "scores.csv", scores)


def test_whole_tables_are_read_in_any_order(tmp_path: Path) -> None:
    write(tmp_path, CLIPS.sample(frac=1, random_state=0), SCORES.sample(frac=1, random_state=0))
    clips, scores = read_evaluation(tmp_path)
    assert (len(clips), len(scores)) == (len(CLIPS), len(SCORES))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (first("score", np.nan), r"row 1, clip s03-RVRA: score is nan, needed: P\(fake\), from 0 to 1"),
        (first("score", np.inf), "score is inf"),
        (first("score", 7.0), "score is 7.0"),
        (first("score", "abc"), "score is abc, needed: a number"),
        (first("label", 2), r"label is 2, needed: 0 \(real\) or 1 \(fake\)"),
        (first("label", 1), r"label is \d, needed: what other rows of its window say"),
        (first("split", "train"), "split is train, needed: val or test"),
        (first("split", "test"), "split is test, needed: split as clips.csv says it"),
        (first("subject_id", "nobody"), "subject_id is nobody, needed: subject_id as clips.csv says it"),
        (first("clip_category", "FVFA"), "clip_category is FVFA, needed: category as clips.csv says it"),
        (first("system", "evil"), "system evil, seed 0: scores of 1 windows, others have 32"),
        (first("clip_id", "unknown"), "clip_id is unknown, needed: a clip of clips.csv"),
        (lambda table: table.iloc[1:], "system fusion, seed 0: scores of 31 windows, others have 32"),
        (lambda table: pd.concat([table, table.iloc[:1]]), "one row for each clip_id, window, system, seed"),
    ],
)
def test_a_damaged_row_of_scores_is_named(tmp_path: Path, change: Change, says: str) -> None:
    write(tmp_path, CLIPS, change(SCORES))
    with pytest.raises(RunFileError, match=says) as error:
        read_evaluation(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'scores.csv'}: ")
    assert str(error.value).endswith("run `bmnas evaluate` again")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (first("label", 1), "label is 1, needed: what its category says"),
        (first("split", "tset"), "split is tset, needed: train, val or test"),
        (first("fps", "<b>25</b>"), "fps is <b>25</b>, needed: a number"),
        (lambda table: table.drop(columns="fps"), "lacks fps"),
        (lambda table: pd.concat([table, table.iloc[:1]]), "one row for each clip_id"),
    ],
)
def test_a_damaged_row_of_clips_is_named(tmp_path: Path, change: Change, says: str) -> None:
    write(tmp_path, change(CLIPS), SCORES)
    with pytest.raises(RunFileError, match=says):
        read_evaluation(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "cannot be read as a JSON object"),
        ('{"schema_version": 2, "sys', "cannot be read as a JSON object"),
        ("[]", "cannot be read as a JSON object"),
        ("null", "cannot be read as a JSON object"),
        ('{"schema_version": 1}', "is of version 1, 2 is needed"),
        (json.dumps({"schema_version": 2, "seed": 0}), "lacks headline"),
    ],
)
def test_damaged_metrics_are_named(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(RunFileError, match=rf"metrics\.json {says}.*run `bmnas evaluate` again"):
        read_metrics(tmp_path)
