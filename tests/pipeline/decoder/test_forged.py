"""Answers of a decoder that a file has taken over: well formed, and meant to harm whoever believes them."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import media
from pipeline.decoder.messages import read_message
from pipeline.media import process
from tests.pipeline.decoder.test_jail import another_server

NONSENSE = "the decoder's answer makes no sense"


@pytest.fixture(scope="module")
def forger() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, another_server("tests.pipeline.decoder.forger", patch):
        yield


def forged(path: Path, **told: Any) -> Path:
    path.write_text(json.dumps(told))
    return path


def see(path: Path) -> tuple[int, int]:
    """The numbers of small and of full pictures."""
    with media.open_video(path, full_at_s=[0.0, 0.04], small_height_px=48, spans_s=[(0.0, 0.07)]) as video:
        return sum(len(frames.times_s) for frames in video.small()), len(video.full().times_s)


def test_what_is_not_forged_is_read(tmp_path: Path, forger: None) -> None:
    path = forged(tmp_path / "a")
    assert see(path) == (2, 2)
    assert len(media.read_sound(path, sample_rate_hz=16000).samples) == 16000


@pytest.mark.parametrize(
    "header",
    [
        {"width_px": 10**9}, {"width_px": 10**5, "height_px": 10**5}, {"height_px": 0}, {"width_px": -64},
        {"width_px": 64.5}, {"width_px": "wide"}, {"height_px": None}, {"tick_s": 0}, {"tick_s": -1.0},
        {"tick_s": float("nan")}, {"tick_s": 1e308}, {"tick_s": "soon"}, {"codec": 7}, {"codec": "h264" * 1000},
        {"container": None}, {"audio": [1]}, {"audio": {"codec": "aac"}}, {"audio": {"more": 1}},
        {"matrix": [1] * 9999}, {"matrix": 3}, {"bit_depth": "8" * 999}, {"pixel_aspect": float("inf")},
        {"n_audio": "many"},
    ],
    ids=lambda header: json.dumps(header)[:40],
)  # fmt: skip
def test_a_header_that_makes_no_sense_is_the_files_fault(tmp_path: Path, forger: None, header: dict[str, Any]) -> None:
    path = forged(tmp_path / "a", header=header)
    for read in (media.probe, see, lambda path: media.read_sound(path, sample_rate_hz=16000)):
        with pytest.raises(media.MediaError, match=NONSENSE) as raised:
            read(path)
        assert type(raised.value) is media.MediaError  # a verdict, that is kept


@pytest.mark.parametrize("start_s", [1e300, -1e300, float("nan"), float("inf"), "soon"])
def test_a_start_of_the_sound_that_makes_no_sense(tmp_path: Path, forger: None, start_s: Any) -> None:
    with pytest.raises(media.MediaError):
        media.read_sound(forged(tmp_path / "a", header={"start_s": start_s}), sample_rate_hz=16000)


@pytest.mark.parametrize("numbers", [[25, 26], [-1, 0], [0, 0], [1, 0], [0], list(range(9)), [2**62, 2**63 - 1]])
def test_pictures_that_are_not_there_are_the_files_fault(tmp_path: Path, forger: None, numbers: list[int]) -> None:
    path = forged(tmp_path / "a", numbers=numbers)
    if numbers == [0]:  # fewer than were asked for: the others are stood in for
        assert see(path) == (1, 2)
    elif numbers == list(range(9)):  # more: harmless
        assert see(path) == (9, 2)
    else:
        with pytest.raises(media.MediaError, match=NONSENSE):
            see(path)


def test_what_it_calls_things_cannot_steer_a_terminal(tmp_path: Path, forger: None) -> None:
    names = {"codec": "\x1b[2J", "transfer": "\x1b]0;x\x07"}
    found = media.probe(
        forged(tmp_path / "a", header=names | {"audio": {"codec": "\x1b", "sample_rate_hz": 1, "channels": "\x9b"}})
    )
    assert f"{found.codec}{found.transfer}{found.audio.codec}{found.audio.channels}".isprintable()


def test_a_header_without_end_is_not_read() -> None:
    with process.memory_file() as file:
        file.write(struct.pack("<Q", 1 << 30))
        file.truncate(1 << 31)  # all zeros: costs nothing until somebody copies it
        file.flush()
        with pytest.raises(ValueError, match="header"):
            read_message(file.fileno())
