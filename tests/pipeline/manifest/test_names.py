"""File names of every kind go through the manifest to the stages that open them; links out of the root do not."""

import csv
import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from cache_schemas.manifest import read_manifest, read_quarantine
from pipeline.manifest.build import NOT_UTF8, build_manifest
from pipeline.manifest.check import check_manifest
from pipeline.manifest.show import print_check
from pipeline.sound.stage import build_spectrograms
from pipeline.workspace import Workspace
from tests.pipeline.conftest import small_params
from tests.pipeline.tiny import TinyClips

NAMES = [
    b"two words.mp4", b"new\nline.mp4", b"it's \"quoted\", twice.mp4", b"-i.mp4", b"\xff\xfe latin \xe9.mp4",
    "Zoë 漢字.mp4".encode(), b"100%25.mp4", b"$(touch pwned) `id`;.mp4", b"a%0Ab.mp4", b"=1+1.mp4", b"file:x.mp4",
]  # fmt: skip


def test_names_survive_the_manifest_and_open(tmp_path: Path, tiny: TinyClips) -> None:
    root, workspace = tmp_path / "data", Workspace(tmp_path / "work")
    for number, name in enumerate(NAMES):
        tiny.put(root / ("real", "fake")[number % 2] / f"p{number}" / os.fsdecode(name))
    params = small_params(root, data={"root": str(root), "layout": "folders"})
    clips = build_manifest(workspace, params)
    assert sorted(os.fsencode(Path(clip.file_name).name) for clip in clips) == sorted(NAMES)
    assert read_manifest(workspace.manifest) == clips
    workspace.manifest.read_text(encoding="utf-8")  # any program can read it
    assert len(workspace.manifest.read_text().splitlines()) == 1 + len(NAMES)
    assert check_manifest(workspace, params)["unusable"]["clips"] == {}
    assert len(build_spectrograms(workspace, params)) == len(NAMES)
    assert not list(Path.cwd().glob("pwned"))


def test_the_csv_layout_takes_names_as_bytes(tmp_path: Path, tiny: TinyClips) -> None:
    root = tmp_path / "data"
    for number in range(3):
        tiny.put(root / os.fsdecode(b"\xe9%d.mp4" % number))
    rows = [b"\xe9%d.mp4,p%d,real,real" % (number, number) for number in range(3)]
    (root / "manifest.csv").write_bytes(b"\n".join([b"path,subject_id,video_label,audio_label", *rows]))
    clips = build_manifest(Workspace(tmp_path / "work"), small_params(root))
    assert [clip.path for clip in clips] == ["%E90.mp4", "%E91.mp4", "%E92.mp4"]


def test_the_csv_layout_says_that_a_name_in_another_encoding_is_not_found(tmp_path: Path, tiny: TinyClips) -> None:
    """A file list in Latin-1 over names in UTF-8."""
    root, workspace = tmp_path / "data", Workspace(tmp_path / "work")
    for number in range(3):
        tiny.put(root / f"{number}.mp4")
    tiny.put(root / "é.mp4")
    rows = [*(f"{i}.mp4,p{i},real,real" for i in range(3)), "é.mp4,Zoé,real,real"]
    (root / "manifest.csv").write_text(
        "\n".join(["path,subject_id,video_label,audio_label", *rows]), encoding="latin-1"
    )
    assert len(build_manifest(workspace, small_params(root))) == 3
    [row] = read_quarantine(workspace.quarantine("manifest"))
    assert (row.path, row.reason) == ("%E9.mp4", f"the file does not exist; {NOT_UTF8}")


def test_people_and_folders_of_every_kind_of_name(tmp_path: Path, tiny: TinyClips) -> None:
    """Latin-1, half of rich's markup, a spreadsheet's formula, an escape sequence: as text, and printed."""
    root, workspace = tmp_path / os.fsdecode(b"donn\xe9es [bold]"), Workspace(tmp_path / "work")
    names = [b"Zo\xe9", b"[red", b"=cmd|'C calc'!A0", b"\x1b[31mred", b"@SUM(A1)", b"50%"]
    for name in names:
        for kind in ("real", "fake"):
            tiny.put(root / kind / os.fsdecode(name) / "1.mp4", fake=kind == "fake")
    params = small_params(root, data={"root": str(root), "layout": "folders"})
    clips = build_manifest(workspace, params)
    people = {clip.subject_id for clip in clips}
    assert people == {"Zo%E9", "[red", "=cmd|'C calc'!A0", "%1B[31mred", "@SUM(A1)", "50%"}
    assert {clip.dataset for clip in clips} == {"donn%E9es [bold]"}
    assert read_manifest(workspace.manifest) == clips
    with workspace.manifest.open(encoding="utf-8", newline="") as file:
        assert not any(cell.startswith(("=", "+", "-", "@")) for row in csv.reader(file) for cell in row)
    out = io.StringIO()
    print_check(check_manifest(workspace, params), Console(file=out, width=200))
    assert "donn%E9es [bold]" in out.getvalue()


def test_a_person_named_like_markup_leaks_in_words(
    tmp_path: Path, tiny: TinyClips, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    for number in range(3):
        tiny.put(root / f"{number}.mp4")
    rows = [f"{i}.mp4,[/red],real,real,{split}" for i, split in enumerate(("train", "val", "test"))]
    (root / "manifest.csv").write_text("\n".join(["path,subject_id,video_label,audio_label,split", *rows]))
    params = small_params(root, split={"kind": "official"})
    build_manifest(Workspace(tmp_path / "work"), params)
    assert "[/red] (train: 1 clips, val: 1 clips, test: 1 clips)" in " ".join(capsys.readouterr().err.split())
    print_check(check_manifest(Workspace(tmp_path / "work"), params), Console(file=io.StringIO()))


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_links_out_of_the_root_are_refused(tmp_path: Path, tiny: TinyClips, kind: str) -> None:
    root, outside = tmp_path / "data", tmp_path / "outside"
    for number in range(3):
        tiny.put(root / "real" / f"p{number}" / "1.mp4")
    (root / "fake" / "p0").mkdir(parents=True)
    tiny.put(root / "real" / "p0" / "2.mp4")
    (root / "fake" / "p0" / "inside.mp4").symlink_to(root / "real" / "p0" / "2.mp4")  # as annex and DVC do
    (root / "real" / "p0" / "2.mp4").rename(root / "store")
    (root / "fake" / "p0" / "inside.mp4").unlink()
    (root / "fake" / "p0" / "inside.mp4").symlink_to(root / "store")
    tiny.put(outside / "3.mp4")
    link = root / "fake" / "p0" / ("out.mp4" if kind == "file" else "out")
    link.symlink_to(outside / "3.mp4" if kind == "file" else outside)
    workspace = Workspace(tmp_path / "work")
    params = small_params(root, data={"root": str(root), "layout": "folders"})
    paths = [clip.path for clip in build_manifest(workspace, params)]
    assert "fake/p0/inside.mp4" in paths
    assert not any("out" in path for path in paths)
    [row] = read_quarantine(workspace.quarantine("manifest"))
    assert (row.path, "outside the data root" in row.reason) == (link.relative_to(root).as_posix(), True)
