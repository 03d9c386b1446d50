"""File names of every kind go through the manifest to the stages that open them; links out of the root do not."""

import os
from pathlib import Path

import pytest

from cache_schemas.manifest import read_manifest, read_quarantine
from pipeline.manifest.build import build_manifest
from pipeline.manifest.check import check_manifest
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
