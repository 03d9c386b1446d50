"""How long a decoder is waited for, and by whom."""

import os
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import media
from pipeline.media import process
from tests.pipeline.clips import make_clip
from tests.pipeline.media.test_media import decoders, end_decoders

MANY = 1100
"""More than `select` can count."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "c.mp4", seconds=0.5)


@pytest.fixture
def many_open_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] != resource.RLIM_INFINITY and before[1] < 2 * MANY:
        pytest.skip(f"no more than {before[1]} open files are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * MANY, before[1]))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(MANY)]
    yield
    for file in files:
        os.close(file)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_files_are_read_by_whoever_has_many_open(clip: Path, many_open_files: None) -> None:
    end_decoders(decoders())
    assert media.probe(clip).width_px == 64
    with media.open_video(clip, full_at_s=[0.1], small_height_px=24) as video:
        assert sum(len(batch.times_s) for batch in video.small()) == 13
    end_decoders(decoders())  # they hold descriptors that other tests may not have


def test_a_server_that_is_stuck_is_left_behind(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end_decoders(decoders())
    found = media.probe(clip)
    monkeypatch.setattr(process, "WALL_SECONDS", 0.3)
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.3)
    server = decoders()[0]
    server.suspend()  # as one that waits for a process that cannot be killed, for it waits for a disk
    start = time.monotonic()
    with (
        pytest.raises(media.MediaError, match="longer than"),
        media.open_video(clip, full_at_s=[0.1], small_height_px=24, found=found) as video,
    ):
        list(video.small())
    assert time.monotonic() - start < 10
    monkeypatch.undo()
    assert server not in decoders()
    assert media.probe(clip).width_px == 64


def test_a_file_is_waited_for_once_however_often_it_is_read(clip: Path) -> None:
    end_decoders(decoders())
    with media.one_file():
        media.probe(clip)
        decoders()[1].suspend()
        process._patience.get().left_s = 0.3
        for _ in range(2):  # the second time by a decoder that is well
            with pytest.raises(media.MediaError, match="longer than"):
                media.probe(clip)
    with media.one_file():
        media.probe(clip)


def test_a_piece_of_work_has_a_decoder_of_its_own(clip: Path) -> None:
    """Each decoder has so much time: the next part of a long file begins with all of it."""
    end_decoders(decoders())
    seen = []
    for _ in range(2):
        with media.one_file():
            for _ in range(2):
                media.probe(clip)
                seen.append(decoders()[1].pid)
    assert seen[0] == seen[1] != seen[2] == seen[3]


def test_a_file_that_does_not_open_is_given_up(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer, opened = threading.Event(), []

    def open_slowly(path: Path) -> object:
        answer.wait(30)  # as a disk far away that is gone
        opened.append(path.open("rb"))
        return opened[0]

    with monkeypatch.context() as patch:
        patch.setattr(process, "open_regular", open_slowly)
        patch.setattr(process, "WALL_SECONDS", 0.1)
        with pytest.raises(media.MediaError, match="longer than"):
            media.probe(clip)
    answer.set()
    end = time.monotonic() + 10
    while not (opened and opened[0].closed) and time.monotonic() < end:
        time.sleep(0.01)
    assert opened[0].closed
    assert media.probe(clip).width_px == 64
