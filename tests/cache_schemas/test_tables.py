"""Tables that people open."""

import csv
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_schemas.manifest import Quarantined, write_quarantine
from cache_schemas.tables import read_table, write_table

text = st.text(st.sampled_from(list("=+-@';, \"\n1aé|!\ud800\u202e\t")) | st.characters(codec="utf-8"), max_size=12)


@settings(max_examples=200)
@given(texts=st.lists(text, min_size=1, max_size=5), separator=st.sampled_from(",;"))
def test_no_cell_is_a_formula_and_every_text_comes_back(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], separator: str
) -> None:
    path = tmp_path_factory.mktemp("table") / "t.csv"
    texts = [each.replace("\r", "").replace("\0", "") for each in texts]
    write_table(path, pd.DataFrame({"name": texts, "number": -1.5}))
    escaped = [each.encode("utf-8", "backslashreplace").decode() for each in texts]
    assert read_table(path, dtype={"name": str}, keep_default_na=False)["name"].tolist() == escaped
    with path.open(newline="", encoding="utf-8") as file:
        for row in list(csv.reader(file, delimiter=separator))[1:]:
            assert not any(cell.strip().startswith(("=", "+", "-", "@")) for cell in row[:-1])


def test_numbers_stay_numbers(tmp_path: Path) -> None:
    frame = pd.DataFrame({"network": ["-x", "fusion", None], "auc": [-0.5, float("nan"), 1.0]})
    write_table(tmp_path / "t.csv", frame)
    assert (tmp_path / "t.csv").read_text() == "network,auc\n'-x,-0.5\nfusion,\n,1.0\n"
    found = read_table(tmp_path / "t.csv")
    assert found["auc"].tolist()[::2] == [-0.5, 1.0]
    assert found["network"].tolist()[:2] == ["-x", "fusion"]


def test_a_file_named_like_a_program_is_harmless_in_the_quarantine_list(tmp_path: Path) -> None:
    write_quarantine(tmp_path / "q.csv", [Quarantined("", "=cmd|'/C calc'!A0.mp4", "manifest", "-2+3")])
    with (tmp_path / "q.csv").open(newline="") as file:
        assert list(csv.reader(file))[1] == ["", "'=cmd|'/C calc'!A0.mp4", "manifest", "'-2+3"]
