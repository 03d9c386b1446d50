"""What can be wrong with a file: a usable result or a quarantine row with its reason, and the run goes on."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cache_schemas.manifest import Clip, read_quarantine, write_manifest
from cache_schemas.media import SPECTROGRAMS
from cache_schemas.shards import ClipEntry, ClipResult, write_shard
from pipeline import media
from pipeline.media import process
from pipeline.sound.stage import build_spectrograms, spectrogram_key
from pipeline.workspace import Workspace
from tests.pipeline.clips import H264, copy_clip, make_clip
from tests.pipeline.conftest import small_params


def clip_of(root: Path, path: Path, number: int = 0) -> Clip:
    """A manifest row of a file that nobody has opened."""
    return Clip(
        clip_id=f"{number:016x}",
        path=os.path.relpath(path, root),
        dataset="faults",
        subject_id="s",
        source_id="",
        target_id="",
        video_label=0,
        audio_label=0,
        label=0,
        category="RVRA",
        method="real",
        split="train",
        file_bytes=path.lstat().st_size,
    )


def run(root: Path, *paths: Path, **changes: object) -> tuple[dict[str, ClipEntry], dict[str, str]]:
    """The spectrograms stage: {name: what became of it} of the good files, {name: reason} of the others."""
    workspace = Workspace(root / "work")
    clips = [clip_of(root, path, i) for i, path in enumerate(paths)]
    write_manifest(workspace.manifest, clips)
    entries = build_spectrograms(workspace, small_params(root, max_failed_fraction=1.0, **changes))
    names = {clip.clip_id: clip.path for clip in clips}
    reasons = {row.path: row.reason for row in read_quarantine(workspace.quarantine("spectrograms"))}
    return {names[clip_id]: entry for clip_id, entry in entries.items()}, reasons


def see(path: Path) -> tuple[int, int]:
    """(width, height) of a clip's pictures, read in both sizes as the faces stage does."""
    with media.open_video(path, full_at_s=[0.1, 0.4, 0.7], small_height_px=24) as video:
        small = sum(len(frames.times_s) for frames in video.small())
        full = video.full()
        assert small == len(video.probe.times_s)
        assert len(full.pixels) == 3
        return full.pixels.shape[2], full.pixels.shape[1]


def plain(path: Path) -> Path:
    return make_clip(path)


def rotated(path: Path) -> Path:
    return copy_clip(plain(path.with_name("upright.mp4")), path, before=["-display_rotation", "90"])


def with_cover(path: Path) -> Path:
    """A clip whose first video stream is an attached picture."""
    image = path.with_suffix(".png")
    command = [media.ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", "color=red:s=300x200", "-frames:v", "1"]
    subprocess.run([*command, str(image)], check=True)
    whole = plain(path.with_name("bare.mp4"))
    order = ["-map", "1", "-map", "0", "-disposition:v:0", "attached_pic"]
    return copy_clip(image, path, *order, before=["-i", str(whole)])


def ten_hours(path: Path) -> Path:
    """A clip of one second whose headers (movie, tracks, media) say ten hours."""
    data = bytearray(plain(path).read_bytes())
    for kind, scale_at, duration_at in ((b"mvhd", 12, 16), (b"mdhd", 12, 16), (b"tkhd", None, 20)):
        place = -1
        while (place := data.find(kind, place + 1)) >= 0:
            body = place + 4
            scale = 1000 if scale_at is None else struct.unpack_from(">I", data, body + scale_at)[0]
            struct.pack_into(">I", data, body + duration_at, 36000 * scale)
    path.write_bytes(data)
    return path


def no_rate(path: Path) -> Path:
    """An AVI whose headers say 0 frames in 0 seconds."""
    data = bytearray(make_clip(path).read_bytes())
    struct.pack_into("<I", data, data.index(b"avih") + 8, 0)
    rate = data.index(b"strh") + 8 + 20
    struct.pack_into("<II", data, rate, 1, 0)
    path.write_bytes(data)
    return path


def still(path: Path) -> Path:
    """One picture, a second of sound."""
    return make_clip(path, *H264, "-c:a", "aac", "-frames:v", "1", "-shortest", picture="testsrc=s=64x48:r=1")


HDR = ("-pix_fmt", "yuv420p10le", "-color_primaries", "bt2020", "-color_trc", "smpte2084", "-colorspace", "bt2020nc")
USABLE: dict[str, tuple[Callable[[Path], Path], tuple[int, int]]] = {
    "two-tracks.mkv": (lambda p: make_clip(p, "-map", "0", "-map", "1", "-map", "1", *H264, "-c:a", "aac"), (64, 48)),
    "eight-channels.mkv": (lambda p: make_clip(p, *H264, "-c:a", "flac", "-ac", "8"), (64, 48)),
    "eight-khz.mkv": (lambda p: make_clip(p, *H264, "-c:a", "pcm_s16le", "-ar", "8000"), (64, 48)),
    "rotated.mp4": (rotated, (48, 64)),
    "interlaced.mpg": (
        lambda p: make_clip(p, "-c:v", "mpeg2video", "-flags", "+ildct+ilme", "-c:a", "mp2"),
        (64, 48),
    ),
    "odd.mp4": (
        lambda p: make_clip(p, *H264, "-pix_fmt", "yuv444p", "-c:a", "aac", picture="testsrc=s=67x43:r=25"),
        (67, 43),
    ),
    "hdr.mp4": (lambda p: make_clip(p, *H264, *HDR, "-c:a", "aac"), (64, 48)),
    "cover.mp4": (with_cover, (64, 48)),
    "ten-hours.mp4": (ten_hours, (64, 48)),
}


@pytest.mark.parametrize("name", USABLE)
def test_unusual_files_are_usable(tmp_path: Path, name: str) -> None:
    make, size = USABLE[name]
    path = make(tmp_path / name)
    entries, reasons = run(tmp_path, path)
    assert reasons == {}
    assert entries[name].info["duration_s"] == pytest.approx(1, abs=0.1)
    assert see(path) == size
    assert media.probe(path).n_audio == (2 if name == "two-tracks.mkv" else 1)


def huge(path: Path) -> Path:
    options = ["-c:v", "mjpeg", "-q:v", "31", "-c:a", "pcm_s16le"]
    return make_clip(path, *options, picture="color=s=10000x10000:r=2", seconds=0.5)


def text(path: Path) -> Path:
    path.write_text("this is no video\n" * 100)
    return path


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def directory(path: Path) -> Path:
    path.mkdir()
    return path


def empty(path: Path) -> Path:
    path.touch()
    return path


UNUSABLE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "huge.mkv": (huge, "10000x10000: more than"),
    "empty.mp4": (empty, "0 bytes"),
    "text.mp4": (text, "not a media file|not a container"),
    "fifo.mp4": (fifo, "a device or a pipe"),
    "directory.mp4": (directory, "a directory"),
    "mute.mp4": (lambda p: make_clip(p, *H264, sound=None), "no sound track"),
    "silent.mp4": (lambda p: make_clip(p, sound="anullsrc"), "silent throughout"),
    "still.mp4": (still, ""),
    "no-rate.avi": (no_rate, ""),
    "no-picture.mp4": (lambda p: make_clip(p, "-map", "1", "-c:a", "aac"), "no video stream"),
}


def test_unusable_files_go_to_quarantine_with_their_reason(tmp_path: Path) -> None:
    paths = [make(tmp_path / name) for name, (make, _) in UNUSABLE.items()]
    entries, reasons = run(tmp_path, *paths, plain(tmp_path / "good.mp4"))
    assert "good.mp4" in entries
    for name, (_, expected) in UNUSABLE.items():
        if expected:
            assert name not in entries
            assert any(part in reasons[name] for part in expected.split("|")), (name, reasons[name])
        else:
            assert name in entries or reasons[name]
            assert "unexpected" not in reasons.get(name, ""), reasons[name]


def test_without_sound_the_picture_is_enough_where_that_is_asked_for(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "mute.mp4", *H264, sound=None)
    entries, reasons = run(tmp_path, path, windows={"missing_modality": "visual_only"})
    assert reasons == {}
    assert entries["mute.mp4"].info["has_audio"] is False


def test_whether_a_clip_may_do_without_sound_is_decided_without_computing_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_clip(tmp_path / "mute.mp4", *H264, sound=None)
    for answer in ("quarantine", "visual_only", "quarantine"):
        entries, reasons = run(tmp_path, tmp_path / "mute.mp4", windows={"missing_modality": answer})
        assert list(entries) == (["mute.mp4"] if answer == "visual_only" else [])
        assert all("no sound track (missing_modality: quarantine)" in text for text in reasons.values())
        assert len(entries) + len(reasons) == 1
    assert capsys.readouterr().err.count("1 already done, 0 computed") == 2


def test_clips_that_an_older_version_left_out_for_their_sound_are_looked_at_again(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "mute.mp4", *H264, sound=None)
    old = ClipResult("0" * 16, "", reason="no sound track (missing_modality: quarantine)")
    write_shard(tmp_path / "work" / "spectrograms", SPECTROGRAMS, spectrogram_key(small_params(tmp_path)), [old])
    entries, _ = run(tmp_path, path, windows={"missing_modality": "visual_only"})
    assert list(entries) == ["mute.mp4"]


@pytest.mark.parametrize("name", ["whole.mp4", "whole.mkv", "whole.avi"])
def test_a_clip_cut_at_every_tenth_of_its_bytes(tmp_path: Path, name: str) -> None:
    options = {"whole.mp4": (*H264, "-c:a", "aac", "-movflags", "faststart")}.get(name, ())
    whole = make_clip(tmp_path / name, *options)
    data = whole.read_bytes()
    cuts = []
    for tenth in range(10):
        cut = tmp_path / f"{tenth}{whole.suffix}"
        cut.write_bytes(data[: len(data) * tenth // 10])
        cuts.append(cut)
    entries, reasons = run(tmp_path, *cuts, whole)
    assert set(entries) | set(reasons) == {path.name for path in [*cuts, whole]}
    assert not set(entries) & set(reasons)
    assert name in entries
    assert cuts[9].name in entries  # nine tenths of a clip are a clip
    assert "0 bytes" in reasons[cuts[0].name]
    assert not [reason for reason in reasons.values() if "unexpected" in reason]


def test_a_decoder_that_takes_too_long_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "WALL_SECONDS", 0.0)
    _, reasons = run(tmp_path, plain(tmp_path / "a.mp4"), plain(tmp_path / "b.mkv"))
    assert set(reasons) == {"a.mp4", "b.mkv"}
    assert all("took longer than" in reason for reason in reasons.values())


def test_output_beyond_its_limit_ends_the_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "MAX_OUTPUT_BYTES", 1 << 14)
    _, reasons = run(tmp_path, plain(tmp_path / "a.mp4"))
    assert "decoding gives more than" in reasons["a.mp4"]


def test_more_streams_than_allowed_are_refused(tmp_path: Path) -> None:
    maps = [word for _ in range(process.MAX_STREAMS) for word in ("-map", "1")]
    path = make_clip(tmp_path / "many.mkv", "-map", "0", *maps, *H264, "-c:a", "pcm_s16le", seconds=0.3)
    _, reasons = run(tmp_path, path)
    assert "streams" in reasons["many.mkv"]


def test_more_pictures_than_allowed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs the worker memory, and a packet of nothing is a picture."""
    monkeypatch.setattr(process, "MAX_PICTURES", 24)
    _, reasons = run(tmp_path, plain(tmp_path / "a.mp4"))
    assert reasons == {"a.mp4": "the clip has more than 24 pictures"}


def test_a_picture_that_is_shown_for_years_lasts_no_longer_than_clips_are_read(tmp_path: Path) -> None:
    late = ["-vf", "setpts=N*2000000/TB", "-fps_mode", "passthrough", "-frames:v", "2"]
    path = make_clip(tmp_path / "years.mkv", *late, *H264, sound=None)
    assert media.probe(path).duration_s == process.MAX_SECONDS
