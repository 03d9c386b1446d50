"""How often a test split was looked at: by what is in it, and by the settings that decide its scores."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.runs.looks import looks_at, mark
from pipeline.workspace import Workspace
from tests.pipeline.run_fixture import make_index


def test_a_test_split_is_its_clips(tmp_path: Path) -> None:
    workspace, index = Workspace(tmp_path), make_index(subjects=10)
    mark(workspace, index, "evaluate", "these")
    mark(workspace, index, "evaluate", {"a": 1, "b": 2})
    mark(workspace, index, "evaluate", {"b": 2, "a": 1})
    mark(workspace, index, "sweep", "these")
    found = looks_at(workspace, index)
    assert {key: found[key] for key in ("times", "by")} == {"times": 3, "by": {"evaluate": 2, "sweep": 1}}
    assert list(found["by"]) == ["evaluate", "sweep"]
    # Other windows of the same clips, and other training clips: the same test.
    assert looks_at(workspace, make_index(subjects=10, windows=3)) == found
    fewer = index[(index["split"] == "test") | (index["subject_id"] != "s00")]
    assert looks_at(workspace, fewer.sample(frac=1, random_state=0)) == found
    assert looks_at(workspace, make_index(subjects=15))["times"] == 0, "more clips are tested"


def test_a_damaged_line_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    workspace, index = Workspace(tmp_path), make_index(subjects=5)
    workspace.looks.write_text("{\n")
    mark(workspace, index, "evaluate", 1)
    assert looks_at(workspace, index)["times"] == 1
    assert "looks.jsonl: damaged, and not counted: line 1" in " ".join(capfd.readouterr().err.split())
