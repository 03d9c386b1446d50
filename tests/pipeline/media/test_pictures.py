"""Which pictures a file holds, and that a jump changes none: each is that of a decoding from the start."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from pipeline import media
from pipeline.media import process
from tests.pipeline.clips import copy_clip, make_clip
from tests.pipeline.media.boxes import name_open_groups, set_keys
from tests.pipeline.media.decoding import check_jumps, every_picture
from tests.pipeline.media.field_pairs import write_field_pairs

PICTURE = "testsrc=s=64x48:r=25"
X264 = ("-c:v", "libx264", "-preset", "veryfast")
X265 = ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "open-gop=1:keyint=50:log-level=none")
GROUPS: dict[str, tuple[str, ...]] = {
    "open.mp4": X265,
    "open.mkv": X265,
    "open-h264.mp4": (*X264, "-x264-params", "open-gop=1:keyint=50"),
    "open-h264.mkv": (*X264, "-x264-params", "open-gop=1:keyint=50"),
    "fragments.mp4": (*X264, "-g", "50", "-movflags", "empty_moov+frag_keyframe+skip_trailer"),
    "refresh.mp4": (*X264, "-x264-params", "intra-refresh=1:keyint=50"),
    "closed.ts": (*X264, "-g", "50"),
    "closed.mpg": (*X264, "-g", "50", "-f", "vob"),
    "open.mpg": ("-c:v", "mpeg2video", "-bf", "2", "-g", "50", "-q:v", "2"),
    "closed.flv": (*X264, "-g", "50"),
    "closed.webm": ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "50"),
}


"""How pictures depend on each other, and how a container finds them."""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "WALL_SECONDS", 20.0)  # for a jump that is repeated for ever


@pytest.mark.parametrize("name", GROUPS)
def test_a_jump_changes_no_picture(tmp_path: Path, name: str) -> None:
    path = make_clip(tmp_path / name, *GROUPS[name], picture=PICTURE, sound=None, seconds=60)
    assert len(every_picture(path).times_s) == 1500
    check_jumps(path, starts_s=(0.0, 40.0), window_s=1.0)


def test_a_jump_that_lands_early_is_not_repeated(tmp_path: Path) -> None:
    """The reader of MP4 lands a group early where the file says that groups are open."""
    path = make_clip(tmp_path / "c.mp4", *X265, picture=PICTURE, sound=None, seconds=20)
    check_jumps(name_open_groups(path), starts_s=(0.0, 8.0), window_s=1.0)


LIARS = {
    "h264.mp4": (*X264, "-g", "500"),
    "hevc.mp4": ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "keyint=500:log-level=none"),
    "mpeg4.mp4": ("-c:v", "mpeg4", "-g", "500", "-q:v", "3"),
    "vp9.mp4": ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "500"),
    "h263.3gp": ("-c:v", "h263", "-g", "500", "-q:v", "3", "-s", "176x144"),
}


@pytest.mark.parametrize("name", LIARS)
def test_keys_that_are_none_are_not_trusted(tmp_path: Path, name: str) -> None:
    path = make_clip(tmp_path / name, *LIARS[name], picture=PICTURE, sound=None, seconds=12)
    set_keys(path, range(0, 300, 50))
    check_jumps(path, starts_s=(0.0, 6.2, 10.5), window_s=0.5)


def test_pictures_are_counted_where_packets_have_no_stamps(tmp_path: Path) -> None:
    """H.264 in a program stream, several pictures in a packet: the same as in MP4, where each has its stamp."""
    stamped = make_clip(tmp_path / "c.mp4", *X264, "-g", "50", picture=PICTURE, sound=None, seconds=6)
    path = copy_clip(stamped, tmp_path / "c.mpg", "-bsf:v", "h264_mp4toannexb", "-f", "vob")
    info = media.probe(path)
    assert (len(info.times_s), info.fps, info.duration_s) == (150, pytest.approx(25), pytest.approx(6))
    right = every_picture(stamped)
    assert np.array_equal(every_picture(path).pixels, right.pixels)
    times = [0.0, 0.667, 1.45, 3.89, 5.95]
    numbers = np.rint(np.array(times) * 25).astype(int)
    assert np.array_equal(media.read_frames(path, times).pixels, right.pixels[numbers])


def test_pictures_without_any_stamp_are_refused(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "c.h264", *X264, picture=PICTURE, sound=None)
    with pytest.raises(media.MediaError, match="no time stamps"):
        media.probe(path)


@pytest.mark.parametrize("kind", ["webm", "nut"])
def test_hidden_pictures_are_not_counted(tmp_path: Path, kind: str) -> None:
    """VP8 keeps them in packets of their own; so does VP9, where a container does not put them together."""
    codec = {"webm": "libvpx", "nut": "libvpx-vp9"}[kind]
    coded = ("-c:v", codec, "-auto-alt-ref", "1", "-lag-in-frames", "25", "-b:v", "100k", "-cpu-used", "4")
    passes = ("-passlogfile", str(tmp_path / "log"))
    make_clip(tmp_path / "first.webm", *coded, "-pass", "1", *passes, picture="testsrc2=s=128x96:r=25", sound=None)
    path = make_clip(tmp_path / "c.webm", *coded, "-pass", "2", *passes, picture="testsrc2=s=128x96:r=25", sound=None)
    if kind == "nut":
        path = copy_clip(path, tmp_path / "c.nut", "-bsf:v", "vp9_superframe_split")
    info = media.probe(path)
    assert (len(info.times_s), info.duration_s) == (25, pytest.approx(1.0, abs=0.002))
    assert np.diff(info.times_s) == pytest.approx(0.04, abs=0.002)
    assert len(every_picture(path).times_s) == 25


@pytest.mark.parametrize("kind", ["ts", "mp4", "mkv", "avi"])
def test_two_fields_are_one_picture(tmp_path: Path, kind: str) -> None:
    greys = list(range(40, 200, 4))
    stream = write_field_pairs(tmp_path / "c.h264", greys)
    stamps = "setts=pts=N/50/TB:dts=N/50/TB"
    path = copy_clip(stream, tmp_path / f"c.{kind}", "-bsf:v", stamps, before=["-v", "quiet", "-r", "50"])
    info = media.probe(path)
    assert (len(info.times_s), info.fps, info.duration_s) == (40, pytest.approx(25), pytest.approx(1.6, abs=0.002))
    every = every_picture(path)
    assert np.abs(every.times_s - np.arange(40) / 25).max() < 0.002
    assert np.all(np.diff(every.pixels.mean(axis=(1, 2, 3))) > 3)


def test_an_encrypted_picture_is_called_so(tmp_path: Path) -> None:
    key = ("-encryption_scheme", "cenc-aes-ctr", "-encryption_key", "1" * 32, "-encryption_kid", "2" * 32)
    path = make_clip(tmp_path / "c.mp4", *X264, *key, picture=PICTURE, sound=None)
    with pytest.raises(media.MediaError, match="encrypted"):
        media.probe(path)


def test_a_file_that_ends_in_its_header_is_called_cut_short(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "c.mkv", *X264, picture=PICTURE, sound=None)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"\x16\x54\xae\x6b") + 20])  # within the description of the tracks
    with pytest.raises(media.MediaError, match="cut short"):
        media.probe(path)


@pytest.mark.parametrize("hours", [0.5, 2, -0.015])
@pytest.mark.parametrize("sound", ["sine=f=440", None])
def test_stray_stamps_are_no_time(tmp_path: Path, hours: float, sound: str | None) -> None:
    """Two pictures in the middle are stamped far away: the clip keeps its length, and its pictures their times."""
    coded = (*X264, "-bf", "0", "-g", "25", "-c:a", "aac", "-output_ts_offset", "70", "-cluster_time_limit", "70")
    path = make_clip(tmp_path / "c.mkv", *coded, picture=PICTURE, sound=sound, seconds=4)
    right = every_picture(path)
    data = bytearray(path.read_bytes())
    clusters = list(re.finditer(rb"\x1f\x43\xb6\x75.{1,14}?\xe7\x83(...)", data, re.DOTALL))  # their times in ms
    at = clusters[len(clusters) // 2].start(1)
    stamp = int.from_bytes(data[at : at + 3], "big") + round(hours * 3_600_000)
    data[at : at + 3] = stamp.to_bytes(3, "big")
    path.write_bytes(data)
    info = media.probe(path)
    assert info.duration_s == pytest.approx(4, abs=0.05)
    assert info.times_s == pytest.approx(right.times_s, abs=0.03)
    found = media.read_frames(path, [0.5, 1.5, 3.5])
    nearest = [int(np.abs(right.times_s - at).argmin()) for at in (0.5, 1.5, 3.5)]
    assert np.array_equal(found.pixels, right.pixels[nearest])


def test_a_pause_is_no_stray_stamp(tmp_path: Path) -> None:
    """Nothing new is shown for a minute, with B-frames on both sides."""
    kept = ("-vf", "select='lt(t,2)+gt(t,62)'", "-fps_mode", "vfr", "-g", "500", "-bf", "3")
    path = make_clip(tmp_path / "c.mkv", *X264, *kept, picture=PICTURE, sound=None, seconds=64)
    info = media.probe(path)
    assert info.duration_s == pytest.approx(64, abs=0.05)
    assert np.diff(info.times_s).max() == pytest.approx(60, abs=0.1)
    assert np.sort(np.diff(info.times_s))[-2] < 0.1
    check_jumps(path, starts_s=(1.5, 62.5), window_s=0.5)


@pytest.mark.parametrize("size", ["1x1", "8x8", "4000x16", "16x4000"])
def test_pictures_of_odd_sizes_are_read(tmp_path: Path, size: str) -> None:
    picture = f"color=red:s={size}:r=5"
    path = make_clip(tmp_path / "c.mp4", *X264, "-pix_fmt", "yuv444p", picture=picture, sound=None)
    every = every_picture(path) if size != "16x4000" else media.read_frames(path, [0, 0.2, 0.4, 0.6, 0.8])
    assert len(every.times_s) == 5
    assert np.abs(every.pixels.astype(int) - [255, 0, 0]).max() < 30  # wide ones are read as BT.709, which this is not
