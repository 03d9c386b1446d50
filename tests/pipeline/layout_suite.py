"""What every layout must do. Each layout's test subclasses `LayoutSuite` and writes a tree with the true names."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from rich.console import Console

from cache_schemas.manifest import Clip, ManifestError, find_leaks, read_manifest, read_quarantine
from cache_schemas.segments import Segments
from pipeline.datasets import LAYOUTS
from pipeline.manifest.build import build_manifest
from pipeline.manifest.check import check_manifest
from pipeline.manifest.show import print_check
from pipeline.params import Params
from pipeline.workspace import Workspace
from tests.pipeline.conftest import small_params
from tests.pipeline.tiny import TinyClips


@dataclass(frozen=True)
class Expected:
    """What the manifest must say of one file."""

    category: str
    method: str
    people: set[str]
    official: str = ""
    video_segments: Segments = ()
    audio_segments: Segments = ()
    group: str = ""


Tree = tuple[Path, dict[str, Expected]]


def name_of(clip: Clip) -> str:
    """The clip's file, or both of them."""
    return " + ".join(filter(None, (clip.path, clip.audio_path)))


class LayoutSuite:
    """`write` makes a tree of at least three unrelated people and says what must come of it.

    A clip whose sound lies in another file is called `path + audio_path`.
    """

    layout: ClassVar[str]
    table: ClassVar[str]
    """What the error names where the folder holds no such data set."""
    official_splits: ClassVar[bool] = False

    def write(self, root: Path, put: Callable[..., None]) -> dict[str, Expected]:
        """Writes metadata and files (`put(path, fake=...)`); {path: what is expected of it}."""
        raise NotImplementedError

    def refused(self) -> dict[str, str]:
        """{path: a piece of the reason} of the entries of `write`'s tree that are no clips."""
        return {}

    def left_out(self) -> list[str]:
        """The media files of `write`'s tree that no entry names."""
        return []

    def params(self, root: Path, **split: object) -> Params:
        return small_params(
            root, data={"root": str(root), "layout": self.layout}, split={"val": 0.3, "test": 0.3, **split}
        )

    @pytest.fixture
    def tree(self, tmp_path: Path, tiny: TinyClips) -> Tree:
        root = tmp_path / "data"
        root.mkdir()
        return root, self.write(root, lambda path, fake=False: tiny.put(root / path, fake=fake))

    def test_every_clip_is_listed_as_labelled(self, tree: Tree, tmp_path: Path) -> None:
        root, expected = tree
        workspace = Workspace(tmp_path / "work")
        clips = build_manifest(workspace, self.params(root))
        found = {
            name_of(clip): Expected(
                clip.category, clip.method, set(clip.people), clip.official_split, clip.video_segments,
                clip.audio_segments, clip.group,
            )
            for clip in clips
        }  # fmt: skip
        assert found == expected
        assert read_manifest(workspace.manifest) == clips
        assert not find_leaks(clips)
        assert {clip.split for clip in clips} == {"train", "val", "test"}

    def test_what_cannot_be_a_clip_is_refused_with_the_reason(self, tree: Tree, tmp_path: Path) -> None:
        root, expected = tree
        # One that no other clip takes its picture from.
        empty = next(
            name for name in sorted(expected) if sum(each.startswith(name.split(" + ")[0]) for each in expected) == 1
        )
        (root / empty).write_bytes(b"")
        workspace = Workspace(tmp_path / "work")
        clips = build_manifest(workspace, self.params(root))
        reasons = {row.path: row.reason for row in read_quarantine(workspace.quarantine("manifest"))}
        assert set(reasons) == {empty, *self.refused()}
        assert "0 bytes" in reasons[empty]
        for path, reason in self.refused().items():
            assert reason in reasons[path]
        assert len(clips) == len(expected) - 1

    def test_round_trip_through_check(self, tree: Tree, tmp_path: Path) -> None:
        root, expected = tree
        workspace, params = Workspace(tmp_path / "work"), self.params(root)
        clips = build_manifest(workspace, params)
        result = check_manifest(workspace, params)
        assert json.loads((workspace.check / "manifest.json").read_text()) == result
        assert sum(entry["clips"] for entry in result["counts"]) == len(expected)
        assert {(entry["category"], entry["method"]) for entry in result["counts"]} == {
            (each.category, each.method) for each in expected.values()
        }
        assert result["unusable"]["clips"] == {}
        assert sum(result["unusable"]["entries"].values()) == len(self.refused())
        assert result["leaks"]["split"] == []
        assert result["identity"] == LAYOUTS[self.layout].identity
        assert result["properties"]["resolution"]["real"]["values"] == {"128x128": sum(not c.label for c in clips)}
        assert {entry["group"] for entry in result["groups"]} == {each.group for each in expected.values()} - {""}
        assert result["left_out"] == {"files": len(self.left_out()), "first": self.left_out()}
        with_segments = sum(bool(each.video_segments) for each in expected.values())
        assert result["segments"]["video"]["clips"] == with_segments
        print_check(result, console := Console(width=100, record=True))
        said = "Assumed by the layout" in console.export_text()
        assert said is (self.layout in ("dfdc", "folders", "swan-df")), "others' categories are stated"

    def test_a_folder_without_such_a_data_set_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ManifestError, match=rf"{self.table}.*data\.(root|layout)"):
            build_manifest(Workspace(tmp_path / "work"), self.params(tmp_path / "nowhere"))

    def test_official_splits(self, tree: Tree, tmp_path: Path) -> None:
        root, expected = tree
        workspace, params = Workspace(tmp_path / "work"), self.params(root, kind="official")
        if not self.official_splits:
            with pytest.raises(ManifestError, match=r"no official split.*use split\.kind: subject"):
                build_manifest(workspace, params)
            return
        clips = build_manifest(workspace, params)
        self.check_official(clips, expected)
        assert read_manifest(workspace.manifest) == clips

    def check_official(self, clips: list[Clip], expected: dict[str, Expected]) -> None:
        """The authors' splits are kept."""
        assert {name_of(clip): clip.split for clip in clips} == {path: each.official for path, each in expected.items()}
