"""Every stage and protocol over a tree of FakeAVCeleb's shape, in small."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cache_schemas.manifest import read_manifest, read_unused
from cache_schemas.tables import read_table
from pipeline.cli import main
from pipeline.workspace import Workspace
from tests.pipeline.manifest.fakeavceleb_shape import GROUPS, LABELS, doubled, rows
from tests.pipeline.small_experiments import RETRAIN, SEARCH
from tests.pipeline.tiny import draw
from tests.soak.fakeavceleb import FOLDER, STEPS, build, write_params


def test_from_the_table_to_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = [cells for cells in rows(each=3, part=0.003) if cells[6:8] in GROUPS[:4]]
    table += doubled(table, 1)
    tiny = draw(tmp_path)
    of_type = {name: [tiny.fake if any(labels) else tiny.real] for name, labels in LABELS.items()}
    assert build(tmp_path / FOLDER, table, of_type) == len(table) - 1 == 48
    write_params(
        tmp_path, tmp_path / FOLDER, seeds=[0], faces={"frames": 1, "size_px": 64}, search=SEARCH, retrain=RETRAIN,
        compute={"workers": 1}, max_failed_fraction=0.0,
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for step in STEPS:
        monkeypatch.setattr(sys, "argv", ["bmnas", *step])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code, step
    workspace = Workspace(tmp_path / "work")
    used = read_manifest(workspace.manifest)
    assert len(used) + len(read_unused(workspace.unused)) == 48
    tested = {
        step[1]: {row.tested_on for row in read_table(workspace.protocols / step[1] / "table.csv").itertuples()}
        for step in STEPS
        if step[0] == "protocol"
    }
    unseen = tested["leave-one-group-out"] - {"4 tests"}
    assert unseen == {f"{race} {gender}" for race, gender in GROUPS[:4]}
    assert tested["leave-one-method-out"] - {"4 tests"} <= {clip.method for clip in used}
    assert tested["people"] == {"all"}
