"""The tree of FakeAVCeleb's shape in small, and its manifest as the soak measures it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from cache_schemas.manifest import read_manifest, read_unused
from pipeline.workspace import Workspace
from tests.pipeline.manifest.fakeavceleb_shape import GROUPS, LABELS, doubled, rows
from tests.pipeline.tiny import draw
from tests.soak.fakeavceleb import FOLDER, build, run_steps, table_of, write_params


def test_a_small_tree_is_listed_and_measured(tmp_path: Path) -> None:
    table = [cells for cells in rows(each=3, part=0.003) if cells[6:8] in GROUPS[:4]]
    table += doubled(table, 2)
    tiny = draw(tmp_path)
    of_type = {name: [tiny.fake if any(labels) else tiny.real] for name, labels in LABELS.items()}
    assert build(tmp_path / FOLDER, table, of_type) == len(table) - 2 == 48
    write_params(tmp_path, tmp_path / FOLDER, max_failed_fraction=0.0)
    (measured,) = run_steps(tmp_path, [("manifest",)])
    assert measured.step == "manifest"
    assert 0 < measured.seconds < 60
    assert 20 < measured.largest_mib <= measured.tree_mib
    workspace = Workspace(tmp_path / "work")
    clips = [*read_manifest(workspace.manifest), *(row.clip for row in read_unused(workspace.unused))]
    assert len({clip.clip_id for clip in clips}) == 48
    twice = [clip for clip in clips if len(clip.target_id.split(";")) > 1 and clip.method == "faceswap-wav2lip"]
    assert {Path(clip.path).name for clip in twice} >= {cells[-2] for cells in table[-2:]}
    with pytest.raises(SystemExit, match=r"nothing like it ended with 2:[\s\S]*No such command"):
        list(run_steps(tmp_path, [("nothing", "like", "it")]))


@pytest.mark.parametrize("share", [1 / 20, 1 / 50])
def test_a_share_of_the_table_has_all_groups_types_and_files_of_two_rows(share: float) -> None:
    table = table_of(share)
    assert {cells[6:8] for cells in table} == set(GROUPS)
    assert {cells[5] for cells in table} == set(LABELS)
    seen = Counter((cells[-1], cells[-2]) for cells in table)
    assert set(seen.values()) == {1, 2}
    assert len(seen) == pytest.approx(21544 * share, rel=0.3)
    people = {cells[0] for cells in table}
    assert {who for cells in table for who in cells[:3]} - {"-"} == people
