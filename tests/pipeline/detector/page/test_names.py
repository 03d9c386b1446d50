"""Names of pages: safe in any folder, and no two alike."""

from __future__ import annotations

from pathlib import Path

from pipeline.detector.page import page_names

HOSTILE = [
    "..", "a/../../etc/passwd", "-rf.mp4", ".hidden.mp4", "a\nb.mp4", 'q"u<o>t\'e.mp4', "\u202egpj.mp4",
    "x" * 250 + ".mp4", "é" * 125, "con?:*|.mp4", "\udcff.mp4", "***", "مقابلة.mp4", "two words.mp4",
]  # fmt: skip


def test_pages_are_named_after_their_files() -> None:
    assert page_names([Path("clips/interview.mp4")]) == {Path("clips/interview.mp4"): "interview.mp4.html"}


def test_names_are_safe(tmp_path: Path) -> None:
    names = page_names(map(Path, HOSTILE))
    assert len(names) == len(set(names.values())) == len(HOSTILE)
    for name in names.values():
        (tmp_path / name).write_text("")
        assert not name.startswith((".", "-"))
        assert all(char.isalnum() or char in "-_." for char in name)
        assert len(name.encode()) <= 220
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names.values())


def test_files_of_one_name_have_pages_of_their_own_on_any_file_system() -> None:
    names = page_names(map(Path, ["a/x.mp4", "b/x.mp4", "c/X.MP4", "x.mp4-2", "a/x.mp4"]))
    assert names[Path("a/x.mp4")] == "x.mp4.html"
    assert names[Path("b/x.mp4")] == "x.mp4-2.html"
    assert len({name.casefold() for name in names.values()}) == len(names) == 4
