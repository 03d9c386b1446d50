"""The tables of an evaluation come back as they were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cache_schemas.evaluation import CLIPS, PROPERTIES, SCORES, EvaluationError, read_clips, read_scores
from cache_schemas.tables import write_table


def clips() -> pd.DataFrame:
    table = pd.DataFrame({name: ["", ""] for name in CLIPS}).assign(**dict.fromkeys(PROPERTIES, 1.5))
    table = table.assign(clip_id=["0012", "1e5"], subject_id=["NA", "7"], method=["=cmd", "nan"], label=[0, 1])
    return table.assign(windows=[1, 2], loudness_db=[np.nan, -1 / 3], has_audio=[True, False], path=["a,b", "-c"])


def test_texts_stay_texts_and_numbers_keep_every_digit(tmp_path: Path) -> None:
    """A column without a single text, too, and people whose names look like numbers or like nothing."""
    path = tmp_path / "clips.csv"
    write_table(path, clips())
    pd.testing.assert_frame_equal(read_clips(path), clips(), check_exact=True, check_dtype=False)
    scores = pd.DataFrame({name: ["x"] * 500 for name in SCORES}).assign(score=np.random.default_rng(0).random(500))
    write_table(path, scores)
    assert (read_scores(path)["score"] == scores["score"]).all()


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    path = tmp_path / "clips.csv"
    with pytest.raises(EvaluationError, match=r"clips\.csv does not exist: run `bmnas evaluate` first"):
        read_clips(path)
    write_table(path, clips().drop(columns=["group", "dataset"]))
    with pytest.raises(EvaluationError, match=r"clips\.csv lacks dataset, group: run `bmnas evaluate` again"):
        read_clips(path)
    path.write_text("")
    with pytest.raises(EvaluationError, match=r"clips\.csv cannot be read as a table"):
        read_clips(path)
