"""The tables of an evaluation come back as they were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cache_schemas.evaluation import read_evaluation
from cache_schemas.metrics import EvaluationError
from cache_schemas.tables import write_table
from tests.pipeline.run_fixture import make_clips, make_index, make_scores

INDEX = make_index(subjects=10)
CLIPS, SCORES = make_clips(INDEX), make_scores(INDEX, seeds=(0, 1), networks=["fusion"])


def test_texts_stay_texts_and_numbers_keep_every_digit(tmp_path: Path) -> None:
    """A column without a single text, too, and people whose names look like numbers or like nothing."""
    names = dict(zip(CLIPS["subject_id"].unique(), ["NA", "7", "007", "1e5", "=cmd", "-c", "nan", "a,b"], strict=False))
    clips, scores = (
        table.assign(subject_id=table["subject_id"].replace(names), method=table["method"].replace({"wav2lip": "NA"}))
        for table in (CLIPS, SCORES)
    )
    clips = clips.assign(group="", loudness_db=[np.nan, *np.random.default_rng(0).random(len(clips) - 1)])
    scores = scores.assign(score=np.random.default_rng(1).random(len(scores)))
    write_table(tmp_path / "clips.csv", clips)
    write_table(tmp_path / "scores.csv", scores)
    for read, written in zip(read_evaluation(tmp_path), (clips, scores), strict=True):
        pd.testing.assert_frame_equal(read, written.reset_index(drop=True), check_exact=True, check_dtype=False)


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    path = tmp_path / "clips.csv"
    with pytest.raises(EvaluationError, match=r"clips\.csv does not exist: run `bmnas evaluate` first"):
        read_evaluation(tmp_path)
    write_table(path, CLIPS.drop(columns=["group", "dataset"]))
    with pytest.raises(EvaluationError, match=r"clips\.csv lacks dataset, group: run `bmnas evaluate` again"):
        read_evaluation(tmp_path)
    path.write_text("")
    with pytest.raises(EvaluationError, match=r"clips\.csv cannot be read as a table"):
        read_evaluation(tmp_path)
