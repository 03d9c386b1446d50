"""A flash and a click of one moment stay together through both stages, whatever the container does to their clocks."""

from __future__ import annotations

import csv
import itertools
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cache_schemas.manifest import Clip
from cache_schemas.windows import ClipWindows
from pipeline import media
from pipeline.params import SpectrogramParams, WindowParams
from pipeline.shards.windows import frame_times, plan_windows, window_samples
from pipeline.sound.clip import compute_spectrogram
from tests.pipeline.clips import H264, copy_clip, make_clip
from tests.pipeline.media.boxes import edit_boxes

RATE = 16000
AT_S = (0.6, 1.4, 2.2)
"""When the clips below flash and click."""
TOLERANCE_S = 0.020


def flashing(
    path: Path, *options: str, filters: str = "null", seconds: float = 3.0, sound_s: float | None = None
) -> Path:
    """A clip that is white for one picture (25 fps) and sounds for 4 ms at each of AT_S."""
    white = "+".join(f"between(t,{t - 0.001},{t + 0.039})" for t in AT_S)
    loud = "+".join(f"between(t,{t},{t + 0.004})" for t in AT_S)
    sound = f"aevalsrc='0.8*({loud})*sin(2*PI*2000*t)+0.01*sin(2*PI*300*t)':s=44100"
    return make_clip(
        path,
        *options,
        picture=f"color=black:s=64x48:r=25,drawbox=c=white:t=fill:enable='{white}',{filters}",
        sound=None,
        inputs=["-f", "lavfi", "-t", str(sound_s or seconds), "-i", sound],
        seconds=seconds,
    )


def variable(path: Path) -> Path:
    """12.5 pictures a second, but 25 around the flashes."""
    near = "+".join(f"between(t,{t - 0.1},{t + 0.15})" for t in AT_S)
    kept = f"select='not(mod(n,2))+{near}'"
    rate = ("-fps_mode", "vfr")
    return flashing(path, *rate, *H264, "-c:a", "aac", filters=kept)


def late(path: Path) -> Path:
    """The sound track starts at 0.5 s."""
    whole = flashing(path.with_name(f"whole.{path.suffix[1:]}"))
    return copy_clip(
        whole, path, "-map", "0:v", "-map", "1:a", before=["-i", str(whole), "-ss", "0.5", "-itsoffset", "0.5"]
    )


def edited(path: Path) -> Path:
    """An mp4 whose edit list hides the first 0.3 s, which are in the file."""
    return copy_clip(
        flashing(path.with_name("whole.mp4"), *H264, "-g", "50", "-c:a", "aac"), path, before=["-ss", "0.3"]
    )


def shifted(path: Path) -> Path:
    """Time stamps begin at ten seconds."""
    return copy_clip(flashing(path.with_name(f"whole.{path.suffix[1:]}")), path, "-output_ts_offset", "10")


CLIPS: dict[str, Callable[[Path], Path]] = {
    # MP3 is 25 ms late, which AVI cannot tell. ffmpeg delays the pictures by as much, rounded to whole ones: here
    # by 40 ms. So in constant.avi the sound is 15 ms early, whoever reads it.
    **{f"constant.{kind}": flashing for kind in ("mp4", "mkv", "webm", "avi", "mov", "mpg", "ts")},
    "variable.mp4": variable,
    "variable.mkv": variable,
    "late.mp4": late,
    "late.mkv": late,
    "edited.mp4": edited,
    "shifted.mkv": shifted,
    "shifted.ts": shifted,
    "b-frames.avi": lambda path: flashing(path, *H264, "-bf", "2", "-c:a", "pcm_s16le"),
}


def clicks(samples: np.ndarray) -> list[float]:
    """The beginnings of what is loud, s."""
    loud = np.flatnonzero(np.abs(samples) > 0.2)
    return [float(loud[i]) / RATE for i in range(len(loud)) if i == 0 or loud[i] - loud[i - 1] > 0.1 * RATE]


def flashes(frames: media.Frames) -> list[float]:
    """The times of the pictures that are white, s."""
    white = frames.pixels.mean(axis=(1, 2, 3)) > 128
    return sorted({float(time) for time in frames.times_s[white]})


@pytest.mark.parametrize("name", CLIPS)
def test_flash_and_click_at_the_door(tmp_path: Path, name: str) -> None:
    path = CLIPS[name](tmp_path / name)
    sound = media.read_sound(path, sample_rate_hz=RATE)
    heard = clicks(sound.samples)
    with media.open_video(path, full_at_s=heard, small_height_px=24) as video:
        small = list(video.small())
        at_clicks = video.full()
    times = np.concatenate([frames.times_s for frames in small])
    seen = flashes(media.Frames(times, np.concatenate([frames.pixels for frames in small])))
    assert len(heard) == len(seen) == len(AT_S)
    assert np.abs(np.array(heard) - seen).max() < TOLERANCE_S
    assert np.allclose(times, sound.probe.times_s, atol=2e-3)
    assert flashes(at_clicks) == pytest.approx(seen)


@pytest.mark.parametrize("kind", ["mp4", "mkv", "webm", "avi", "ts"])
@pytest.mark.parametrize("sound_s", [2.9, 3.3, 1.5])
def test_sound_that_is_shorter_or_longer_than_the_picture(tmp_path: Path, kind: str, sound_s: float) -> None:
    """Each click that is left is at its flash, and the sound ends with the picture, or before it where it does."""
    path = flashing(tmp_path / f"c.{kind}", sound_s=sound_s)
    sound = media.read_sound(path, sample_rate_hz=RATE)
    assert len(sound.samples) / RATE == pytest.approx(min(sound_s, 3.0), abs=0.06)
    assert len(sound.samples) / RATE <= sound.probe.duration_s + 1 / RATE
    seen = flashes(media.read_frames(path, sound.probe.times_s.tolist()))
    heard = clicks(sound.samples)
    assert len(seen) == len(AT_S)
    assert len(heard) == sum(at_s < sound_s for at_s in AT_S)
    assert np.abs(np.array(heard) - seen[: len(heard)]).max() < TOLERANCE_S


@pytest.mark.parametrize("name", ["constant.mp4", "constant.avi", "variable.mkv", "late.webm", "edited.mp4"])
def test_flash_and_click_through_both_stages(tmp_path: Path, name: str) -> None:
    """In each window of 0.8 s with 25 frames: the frame of the flash and the column of the click are of one time."""
    path = CLIPS.get(name, late)(tmp_path / name)
    params = WindowParams(window_s=0.8, trim_silence=False)
    sound = media.read_sound(path, sample_rate_hz=RATE)
    windows = plan_windows("c", duration_s=2.4, leading_silence_s=0, params=params)
    waves = window_samples(sound.samples, windows, sample_rate_hz=RATE, params=params)
    columns = compute_spectrogram(waves, SpectrogramParams())[:, 40:60].mean(axis=1)
    wanted = frame_times(windows, frames=25, params=params)
    frames = media.read_frames(path, wanted.ravel().tolist())
    bright = frames.pixels.mean(axis=(1, 2, 3)).reshape(wanted.shape)
    assert bright.max(axis=1).min() > 128
    for w, start in enumerate(windows.starts_s):
        flash = frames.times_s.reshape(wanted.shape)[w, bright[w].argmax()] - start
        click = columns[w].argmax() * 0.010
        assert abs(flash - click) < TOLERANCE_S, (w, flash, click)


@pytest.mark.parametrize("name", ["edited.mp4", "shifted.ts", "late.mkv"])
def test_fake_seconds_count_from_the_first_shown_picture(tmp_path: Path, name: str) -> None:
    """The flashes are the fake seconds: a window around each is fake, those between are not."""
    path = CLIPS[name](tmp_path / name)
    hidden_s = 0.3 if name == "edited.mp4" else 0.0
    segments = tuple((at - hidden_s - 0.05, at - hidden_s + 0.1) for at in AT_S)
    clip = Clip("c", "c", "d", "s", "", "", 1, 0, 1, "FVRA", "m", "train", 1, video_segments=segments)
    for at in flashes(media.read_frames(path, media.probe(path).times_s.tolist())):
        assert clip.labels_between(at - 0.06, at + 0.14) == (1, 0)
        assert clip.labels_between(at + 0.2, at + 0.4) == (0, 0)


def test_the_last_window_is_whole(tmp_path: Path) -> None:
    """Sound that fills the last window to its end is in it to its end."""
    path = make_clip(tmp_path / "c.mp4", seconds=2.0)
    params = WindowParams(window_s=1.0, trim_silence=False)
    samples = media.read_sound(path, sample_rate_hz=RATE).samples
    windows = ClipWindows("c", (0.0, 1.0), 1.0)
    last = window_samples(samples, windows, sample_rate_hz=RATE, params=params)[-1]
    assert len(last) == RATE
    tail = last[-160:]
    assert tail.std() > 0.5 * last.std()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An mp4 that is edited below."""
    return flashing(tmp_path_factory.mktemp("whole") / "whole.mp4", *H264, "-bf", "2", "-c:a", "aac")


def begin_later(path: Path, track: int, later_s: float) -> None:
    """The edit list of that track begins so much later in it: what is before is hidden."""
    lists, scales = [], []

    def note(name: bytes, body: bytes) -> bytes:
        if name == b"elst":
            lists.append(body)
        if name == b"mdhd":
            scales.extend(struct.unpack(">I", body[12:16]))
        return body

    def change(name: bytes, body: bytes) -> bytes:
        if name != b"elst" or next(places) != track:
            return body
        return struct.pack(">IIIiI", 0, 1, duration, begin + round(later_s * scales[track]), 1 << 16)

    edit_boxes(path, note)
    duration, begin = struct.unpack(">Ii", lists[track][8:16])
    places = itertools.count()
    edit_boxes(path, change)


@pytest.mark.parametrize("timescale", [600, 1000, 1_000_000])
@pytest.mark.parametrize("track", [0, 1], ids=["picture", "sound"])
def test_edit_lists_of_milliseconds(whole: Path, tmp_path: Path, timescale: int, track: int) -> None:
    """Hiding the first of one track moves it against the other; a list's durations are in the movie's time scale."""
    for hidden_s in (0.001, 0.013, 0.04):
        path = copy_clip(whole, tmp_path / "c.mp4", "-movie_timescale", str(timescale))
        begin_later(path, track, hidden_s)
        sound = media.read_sound(path, sample_rate_hz=RATE)
        frames = media.read_frames(path, sound.probe.times_s.tolist())
        late = np.array(clicks(sound.samples)) - flashes(frames)
        assert late == pytest.approx([hidden_s if track == 0 else -hidden_s] * len(AT_S), abs=0.005), hidden_s


def test_a_minute_at_29_97(tmp_path: Path) -> None:
    """Pictures are 33.37 ms apart: counted as 29 or 30 a second the end would be off by 2 s, or 60 ms."""
    path = make_clip(
        tmp_path / "c.mp4",
        *(*H264, "-bf", "2", "-c:a", "aac"),
        picture="color=black:s=64x48:r=30000/1001,drawbox=c=white:t=fill:enable='between(t,58.99,59.02)'",
        sound="aevalsrc='0.8*between(t,58.992,58.996)*sin(2*PI*2000*t)+0.01*sin(2*PI*300*t)':s=44100",
        seconds=60,
    )
    sound = media.read_sound(path, sample_rate_hz=RATE)
    frames = media.read_frames(path, np.arange(58.8, 59.2, 0.01).tolist())
    assert clicks(sound.samples) == pytest.approx(flashes(frames), abs=TOLERANCE_S)


@pytest.mark.parametrize("seconds", [2.9, 3.3, 1.5])
def test_sound_of_another_length_than_the_picture(tmp_path: Path, seconds: float) -> None:
    path = flashing(tmp_path / "c.mp4", *H264, "-c:a", "aac", "-af", f"apad=whole_dur=4,atrim=end={seconds}")
    sound = media.read_sound(path, sample_rate_hz=RATE)
    assert sound.probe.duration_s == pytest.approx(3.0, abs=0.001)
    assert len(sound.samples) / RATE == pytest.approx(min(seconds, 3.0), abs=0.05)  # none beyond the picture's end
    heard = clicks(sound.samples)
    assert heard == pytest.approx([at for at in AT_S if at < seconds], abs=TOLERANCE_S)
    assert flashes(media.read_frames(path, heard)) == pytest.approx(heard, abs=TOLERANCE_S)


def lag_s(one: np.ndarray, other: np.ndarray) -> float:
    """By how much `other` is late, s: the peak of the cross-correlation of two envelopes of 1 ms."""
    a, b = (np.abs(x[: len(x) // 16 * 16]).reshape(-1, 16).mean(axis=1) for x in (one, other))
    size = len(a) + len(b)
    product = np.fft.irfft(np.fft.rfft(b - b.mean(), size) * np.conj(np.fft.rfft(a - a.mean(), size)), size)
    peak = int(product.argmax())
    return (peak - size if peak > size // 2 else peak) / 1000


def test_probes_of_real_clips_show_their_shift(realset: Path) -> None:
    """One recording, its sound advanced and delayed by 200 ms against the same picture."""
    rows = csv.DictReader((realset / "probes.csv").read_text(encoding="utf-8").splitlines())
    names = {row["method"]: row["path"] for row in rows}
    sounds = {method: media.read_sound(realset / path, sample_rate_hz=RATE) for method, path in names.items()}
    pictures = {tuple(sound.probe.times_s.round(3)) for sound in sounds.values()}
    assert len(pictures) == 1
    undisturbed = sounds["probe:noise"].samples
    assert lag_s(undisturbed, sounds["probe:audio-delay-200ms"].samples) == pytest.approx(0.200, abs=0.02)
    assert lag_s(undisturbed, sounds["probe:audio-advance-200ms"].samples) == pytest.approx(-0.200, abs=0.02)
