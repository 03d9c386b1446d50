"""Files of a protocol that somebody, or a full disk, has touched: refused, with file, row, value and the way out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cache_schemas.evaluation import read_protocol_scores
from cache_schemas.files import write_json
from cache_schemas.protocol import PROTOCOL_VERSION, read_protocol
from cache_schemas.run import RunFileError
from cache_schemas.tables import write_table

SCORES = pd.DataFrame(
    [
        {"clip_id": clip, "trained_on": "all but a", "tested_on": "a", "person": "=NA", "label": n % 2, "score": n / 8}
        | {"method": method, "seed": seed, "threshold": 0.1 if method == "probe" else 0.2}
        for n, clip in enumerate(["0012", "1e5", "c"])
        for method in ("search", "probe")
        for seed in (0, 1)
    ]
)
WHOLE = {"schema_version": PROTOCOL_VERSION, "protocol": {}, "seed": 0, "cache": "", "adds": None, "rows": []}


def first(column: str, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Sets one cell of the first row."""
    return lambda table: table.astype({column: object}).assign(**{column: [value, *table[column].iloc[1:]]})


def test_a_whole_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_table(tmp_path / "scores.csv", SCORES)
    pd.testing.assert_frame_equal(read_protocol_scores(tmp_path / "scores.csv"), SCORES, check_dtype=False)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (first("score", np.nan), r"row 1, clip 0012: score is nan, needed: P\(fake\), from 0 to 1 \(1 such rows\)"),
        (first("score", 1.5), "score is 1.5"),
        (first("score", "=abc"), "score is =abc, needed: a number"),
        (first("seed", ""), "seed is nan, needed: a number"),
        (first("label", 2), r"label is 2, needed: 0 \(real\) or 1 \(fake\)"),
        (first("label", 1), "label is 0, needed: what other rows of its clip_id say"),
        (first("person", "b"), "person is =NA, needed: what other rows of its clip_id say"),
        (first("threshold", np.inf), "threshold is inf"),
        (lambda table: table.drop(columns="person"), "lacks person"),
    ],
)
def test_a_damaged_row_is_named(tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], says: str) -> None:
    path = tmp_path / "scores.csv"
    write_table(path, change(SCORES))
    with pytest.raises(RunFileError, match=says) as error:
        read_protocol_scores(path)
    assert str(error.value).startswith(str(path))
    assert str(error.value).endswith("run `bmnas protocol` again (what is trained is kept)")


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFileError, match=r"scores\.csv does not exist: run `bmnas protocol`"):
        read_protocol_scores(tmp_path / "scores.csv")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"rows": []}, f"is of version None, {PROTOCOL_VERSION} is needed"),
        (WHOLE, "lacks skipped"),
    ],
)
def test_an_older_protocol_is_refused(tmp_path: Path, content: dict[str, object], says: str) -> None:
    write_json(tmp_path / "protocol.json", content)
    with pytest.raises(RunFileError, match=rf"protocol\.json {says}: run `bmnas protocol` again"):
        read_protocol(tmp_path / "protocol.json")
