"""What `predict` is asked about: files, folders, patterns, lists."""

import io
import os
from pathlib import Path

import pytest

from pipeline.detector.inputs import Asked, NoListError, asked
from tests.pipeline.clips import make_clip


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("b.mp4", "a.MKV", "sub/c.webm", "sub/notes.txt", "odd/[x].mov", "-dash.mp4"):
        path = Path("clips") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    Path("empty").mkdir()
    Path("clips/loop").symlink_to(tmp_path / "clips")
    return tmp_path


def names(*given: str, listed: bytes = b"") -> list[str]:
    return [str(found.path) for found in asked(given, io.BytesIO(listed))]


def test_files_are_taken_as_they_are(tree: Path) -> None:
    assert names("clips/sub/notes.txt", "none.mp4", "clips/b.mp4") == ["clips/sub/notes.txt", "none.mp4", "clips/b.mp4"]


def test_folders_give_their_media_files_and_links_to_folders_nothing(tree: Path) -> None:
    assert names("clips") == ["clips/-dash.mp4", "clips/a.MKV", "clips/b.mp4", "clips/odd/[x].mov", "clips/sub/c.webm"]
    assert asked(["empty"], io.BytesIO()) == [Asked(Path("empty"), "no file in this folder is named as media are")]


def test_patterns_are_expanded_and_a_file_of_that_name_comes_first(tree: Path) -> None:
    assert names("clips/*.mp4") == ["clips/-dash.mp4", "clips/b.mp4"]
    assert names("clips/odd/[x].mov") == ["clips/odd/[x].mov"]
    assert names("clips/sub/**") == ["clips/sub/c.webm", "clips/sub/notes.txt"]
    assert asked(["nothing/*.mp4"], io.BytesIO()) == [Asked(Path("nothing/*.mp4"), "no file matches this pattern")]


def test_links_that_lead_nowhere_are_left_to_predict(tree: Path) -> None:
    Path("clips/gone.mp4").symlink_to("nowhere.mp4")
    assert names("clips/gone.mp4") == ["clips/gone.mp4"]
    assert names("clips/g*.mp4") == ["clips/gone.mp4"]


@pytest.mark.parametrize("given", ["clips/**/*.mp4", "**/*.mp4", "{tree}/clips/**/*.mp4", "**/***.mp4"])
def test_patterns_follow_no_links_in_circles(tree: Path, given: str) -> None:
    """One link gives each file forty times, two of them 2 ** 40 times."""
    found = [Path(name).absolute().relative_to(tree).as_posix() for name in names(given.format(tree=tree))]
    assert found == ["clips/-dash.mp4", "clips/b.mp4"]


def test_standard_input_lists_paths_by_lines_or_by_nuls(tree: Path) -> None:
    assert names("-", listed=b"a.mp4\nb c.mp4\r\n\nclips/sub\n") == ["a.mp4", "b c.mp4", "clips/sub/c.webm"]
    assert names("-", listed=b"a\nb.mp4\0c.mp4\0") == ["a\nb.mp4", "c.mp4"]
    assert names("-", "x.mp4", listed=b"\xff.mp4") == [os.fsdecode(b"\xff.mp4"), "x.mp4"]


def test_a_film_on_standard_input_is_no_list(tmp_path: Path) -> None:
    with pytest.raises(NoListError, match="no list of names, but what looks like a file itself: give its path"):
        names("-", listed=make_clip(tmp_path / "a.mp4").read_bytes())
    hostile = b"a\x01\x1b[2J.mp4\0b.mp4\0"
    assert names("-", listed=hostile) == ["a\x01\x1b[2J.mp4", "b.mp4"]


def test_what_cannot_be_looked_at_is_left_to_predict(tree: Path) -> None:
    long = "x" * 5000
    assert names(long, "clips/b.mp4") == [long, "clips/b.mp4"]
