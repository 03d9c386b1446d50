"""Sound at the door: at its pitch, in its place, whatever the track is made of; or no sound, with the reason."""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline import media
from pipeline.sound.clip import leading_silence_s
from tests.pipeline.broken_sound import BROKEN, at_rate
from tests.pipeline.clips import H264, copy_clip, make_clip

RATE = 16000
MPEG4 = ("-c:v", "mpeg4")


def ffmpeg(*arguments: object, data: bytes | None = None) -> None:
    command = [media.ffmpeg_exe(), "-nostdin", "-y", "-v", "error", *map(str, arguments)]
    subprocess.run(command, check=True, input=data)


def hear(path: Path, audio: Path | None = None) -> np.ndarray:
    return media.read_sound(path, sample_rate_hz=RATE, audio=audio).samples


def loudest_hz(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax()) * RATE / len(samples)


def starts_of_loud(samples: np.ndarray) -> list[float]:
    """The beginnings of what is loud, s."""
    loud = np.flatnonzero(np.abs(samples) > 0.2)
    return [float(loud[i]) / RATE for i in range(len(loud)) if i == 0 or loud[i] - loud[i - 1] > 0.1 * RATE]


def clicking(*at_s: float, rate_hz: int = 48000, tone: float = 0.0) -> str:
    """A lavfi source that sounds for 4 ms at each time, over a quiet tone."""
    loud = "+".join(f"between(t,{t},{t + 0.004})" for t in at_s)
    return f"aevalsrc='0.8*({loud})*sin(2*PI*2000*t)+{tone}*sin(2*PI*440*t)':s={rate_hz}"


# --- rates -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate_hz", [8, 3999, 384_001, 1e9])
def test_rates_that_no_sound_has_are_refused(tmp_path: Path, rate_hz: float) -> None:
    path = at_rate(tmp_path / "c.mkv", rate_hz)
    assert media.probe(path).width_px == 64
    with pytest.raises(media.NoAudioError, match=r"Hz: 4000 to 384000 are accepted"):
        hear(path)


@pytest.mark.parametrize("rate_hz", [4000, 384_000])
def test_the_lowest_and_the_highest_rate_are_heard(tmp_path: Path, rate_hz: int) -> None:
    path = make_clip(tmp_path / "c.mkv", *MPEG4, "-c:a", "pcm_s16le", "-ar", str(rate_hz))
    samples = hear(path)
    assert len(samples) == pytest.approx(RATE, abs=2)
    assert loudest_hz(samples) == pytest.approx(440, abs=2)


def test_a_header_that_makes_the_sound_longer_gives_no_more_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second's samples called 4000 Hz are two seconds."""
    path = at_rate(tmp_path / "c.mkv", 4000)
    monkeypatch.setattr("pipeline.media.process.MAX_SECONDS", 0.5)
    assert len(hear(path)) == pytest.approx(RATE // 2, abs=160)


@pytest.mark.parametrize("large_bytes", [0, 1 << 30])
def test_open_sound_reads_what_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large_bytes: int) -> None:
    """From the disk and from memory; of a track that starts late, silence before it."""
    path = copy_clip(
        make_clip(tmp_path / "a.mkv"), tmp_path / "late.mkv", "-map", "0:v", "-map", "1:a",
        before=["-i", str(tmp_path / "a.mkv"), "-itsoffset", "0.3"],
    )  # fmt: skip
    whole = hear(path)
    assert not whole[:4000].any()
    monkeypatch.setattr("pipeline.media.sound._LARGE_BYTES", large_bytes)
    with media.open_sound(path, sample_rate_hz=RATE) as sound:
        samples = sound.samples
        assert len(samples) == len(whole)
        for part in (slice(0, 100), slice(4000, 9000), slice(len(whole) - 5, len(whole) + 5), slice(7, 7)):
            assert (samples[part] == whole[part]).all()
            assert samples[part].shape == whole[part].shape


def test_who_reads_on_says_how_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_clip(tmp_path / "c.mkv", seconds=2)
    monkeypatch.setattr("pipeline.media.process.MAX_SECONDS", 0.5)
    with media.one_file(1.5):
        assert len(hear(path)) == pytest.approx(1.5 * RATE, abs=0.02 * RATE)  # the coder begins early
        assert media.probe(path).duration_s == 1.5
    assert media.probe(path).duration_s == 0.5


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, float], np.ndarray]:
    """(rate, Hz) -> two seconds of that tone at full scale, recorded as float PCM at that rate and read at 16 kHz."""
    folder = tmp_path_factory.mktemp("tones")

    def read(rate_hz: int, tone_hz: float) -> np.ndarray:
        wav = folder / "tone.mkv"
        tone = f"aevalsrc='sin(2*PI*{tone_hz}*t)':s={rate_hz}"
        make_clip(wav, *MPEG4, "-c:a", "pcm_f32le", picture="color=s=16x16:r=5", sound=tone, seconds=2)
        return hear(wav)

    return read


@pytest.mark.parametrize("rate_hz", [44100, 48000, 22050, 44101])
def test_resampling_is_flat_late_by_nothing_and_lets_nothing_through(
    sweep: Callable[[int, float], np.ndarray], rate_hz: int
) -> None:
    middle = slice(2000, 30000)
    for tone_hz in (1000, 0.9 * RATE / 2):
        expected = np.sin(2 * np.pi * tone_hz * np.arange(32000) / RATE)
        assert np.abs(sweep(rate_hz, tone_hz)[middle] - expected[middle]).max() < 1e-3
    folded = sweep(rate_hz, 1.02 * RATE / 2)[middle]
    assert 20 * np.log10(np.sqrt(2) * folded.std()) < -100


def test_what_is_quieter_for_the_many_channels_it_has_is_not(tmp_path: Path) -> None:
    """Sixty channels that nobody names, as recorders write them: the mean of all."""
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(44100) / 44100) * 32767).astype("<i2")
    for channels in (9, 24, 60):
        path = tmp_path / f"{channels}.mov"
        sound = ["-f", "s16le", "-ar", "44100", "-ac", channels, "-i", "-"]
        picture = ["-f", "lavfi", "-t", "1", "-i", "testsrc=s=64x48:r=25"]
        ffmpeg(*picture, *sound, *MPEG4, "-c:a", "pcm_s16le", path, data=np.repeat(tone, channels).tobytes())
        samples = hear(path)
        assert media.probe(path).audio == media.AudioInfo("pcm_s16le", 44100, f"{channels} channels")
        assert samples.std() == pytest.approx(0.5 / np.sqrt(2), rel=0.01)
        assert loudest_hz(samples) == pytest.approx(440, abs=2)


# --- stamps ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of a quiet tone, with clicks where no third packet of 20 ms is."""
    path = tmp_path_factory.mktemp("opus") / "whole.webm"
    sound = clicking(*CLICKS_S, tone=0.05)
    return make_clip(path, "-c:v", "libvpx", "-deadline", "realtime", "-c:a", "libopus", sound=sound, seconds=3)


CLICKS_S = (0.61, 1.39, 2.23)


def silent_share(samples: np.ndarray) -> float:
    """Of 10 ms, how many are silent."""
    power = np.square(samples[: len(samples) // 160 * 160].reshape(-1, 160)).mean(axis=1)
    return float((power < 1e-8).mean())


@pytest.mark.parametrize(
    ("dropped", "share"),
    # Of every third packet's 20 ms, one whole stretch of 10 ms is silent: Opus fades.
    [("not(mod(n+2,3))", 0.17), ("between(n,35,60)", 0.17), ("between(n,71,110)+between(n,10,28)", 0.39)],
)
def test_lost_opus_packets_are_silence(tmp_path: Path, opus: Path, dropped: str, share: float) -> None:
    path = copy_clip(opus, tmp_path / "c.webm", "-bsf:a", f"noise=amount=0:drop='{dropped}'")
    samples = hear(path)
    assert len(samples) / RATE == pytest.approx(3, abs=0.03)
    assert starts_of_loud(samples) == pytest.approx(CLICKS_S, abs=0.02)
    assert silent_share(samples) == pytest.approx(share, abs=0.03)
    assert silent_share(hear(opus)) == 0


def test_opus_that_is_sent_only_while_somebody_speaks(tmp_path: Path) -> None:
    options = ("-c:v", "libvpx", "-deadline", "realtime", "-c:a", "libopus", "-dtx", "1", "-application", "voip")
    path = make_clip(tmp_path / "c.webm", *options, sound=clicking(*CLICKS_S), seconds=3)
    samples = hear(path)
    assert len(samples) / RATE == pytest.approx(3, abs=0.03)
    assert starts_of_loud(samples) == pytest.approx(CLICKS_S, abs=0.02)


@pytest.mark.parametrize("container", ["mkv", "ts"])
def test_a_rate_that_changes_in_mid_stream(tmp_path: Path, container: str) -> None:
    """44.1 kHz to about 1.5 s, then 48 kHz: the same pitch in both halves, and clicks where they were."""
    halves = tmp_path / "halves.ac3"
    for rate_hz in (44100, 48000):
        half = tmp_path / f"{rate_hz}.ac3"
        ffmpeg("-f", "lavfi", "-t", "1.5", "-i", clicking(0.7, rate_hz=rate_hz, tone=0.1), "-c:a", "ac3", half)
        with halves.open("ab") as file:
            file.write(half.read_bytes())
    path = make_clip(
        tmp_path / f"c.{container}", "-c:v", "mpeg2video", "-c:a", "copy", sound=None, seconds=3, inputs=["-i", halves]
    )
    samples = hear(path)
    first_half_s = 44 * 1536 / 44100  # whole packets
    assert starts_of_loud(samples) == pytest.approx([0.7, first_half_s + 0.7], abs=0.02)
    for begin_s in (0.1, 1.7):
        assert loudest_hz(samples[round(begin_s * RATE) : round((begin_s + 0.5) * RATE)]) == pytest.approx(440, abs=3)


@pytest.mark.parametrize("by_ms", [20_000, -20_000, 600, -600])
def test_wild_stamps_move_nothing_else(tmp_path: Path, opus: Path, by_ms: int) -> None:
    """Two packets of Matroska (its blocks carry 16-bit stamps in ms) are called earlier or later than they are."""
    data = bytearray(opus.read_bytes())
    blocks = list(re.finditer(rb"\xa3(?:[\x81-\xfe]|[\x40-\x7f].)\x82(..)\x80", data, re.DOTALL))
    assert len(blocks) == pytest.approx(150, abs=3)
    for block in blocks[50:52]:
        stamp = struct.unpack(">h", block[1])[0]
        struct.pack_into(">h", data, block.start(1), stamp + by_ms)
    path = tmp_path / "c.webm"
    path.write_bytes(data)
    samples = hear(path)
    assert starts_of_loud(samples) == pytest.approx(CLICKS_S, abs=0.02)
    assert len(samples) / RATE == pytest.approx(3, abs=0.03)
    assert silent_share(samples) < 0.05


# --- codecs ----------------------------------------------------------------------------------------------------------

SPOKEN = {
    "pcm.mov": ("-c:a", "pcm_s16le"),
    "aac.mp4": ("-c:a", "aac"),
    "aac.mkv": ("-c:a", "aac"),
    "aac.ts": ("-c:v", "mpeg2video", "-c:a", "aac"),
    "mp3.mp4": ("-c:a", "libmp3lame"),
    "mp3.mkv": ("-c:a", "libmp3lame"),
    "mp3.ts": ("-c:v", "mpeg2video", "-c:a", "libmp3lame"),
    "mp2.mpg": ("-c:v", "mpeg1video", "-c:a", "mp2"),
    "opus.mp4": ("-c:a", "libopus"),
    "opus.webm": ("-c:v", "libvpx", "-deadline", "realtime", "-c:a", "libopus"),
    "vorbis.webm": ("-c:v", "libvpx", "-deadline", "realtime", "-c:a", "libvorbis"),
    "ac3.mp4": ("-c:a", "ac3"),
    "amr.3gp": ("-c:a", "libopencore_amrnb", "-ar", "8000"),
}


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise that swells like speech after 0.4 s of almost nothing."""
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    voice = "(random(0)-0.5)*(0.001+0.5*gt(t,0.4)*(0.6+0.4*sin(2*PI*4*t)))"
    ffmpeg("-f", "lavfi", "-t", "1.6", "-i", f"aevalsrc='{voice}':s=44100", path)
    return path


def silence_s(samples: np.ndarray) -> float:
    return leading_silence_s(samples, sample_rate_hz=RATE, silence_db=30)


@pytest.mark.parametrize("name", SPOKEN)
def test_every_codec_begins_when_the_speech_does(tmp_path: Path, speech: Path, name: str) -> None:
    path = make_clip(tmp_path / name, *MPEG4, *SPOKEN[name], sound=None, seconds=1.6, inputs=["-i", str(speech)])
    samples = hear(path)
    assert silence_s(samples) == pytest.approx(0.4, abs=0.0101)
    assert abs(lag_s(hear(path, audio=speech), samples)) < 0.002


def lag_s(one: np.ndarray, other: np.ndarray) -> float:
    """By how much `other` is late, s."""
    size = 1 << 16
    product = np.fft.irfft(np.fft.rfft(other, size) * np.conj(np.fft.rfft(one, size)))
    peak = int(product.argmax())
    return (peak - size if peak > size // 2 else peak) / RATE


# --- sound of another file -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "m4a", "opus.ogg", "mp4"])
def test_sound_of_another_file_begins_with_the_picture(tmp_path: Path, speech: Path, kind: str) -> None:
    whole = make_clip(tmp_path / "whole.mkv", *MPEG4, "-an", seconds=2)
    late = copy_clip(whole, tmp_path / "c.mkv", "-output_ts_offset", "3")
    codec = ["-c:a", "libopus"] if kind == "opus.ogg" else []
    audio = tmp_path / f"voice.{kind}"
    ffmpeg("-i", speech, *codec, audio)
    sound = media.read_sound(late, sample_rate_hz=RATE, audio=audio)
    assert silence_s(sound.samples) == pytest.approx(0.4, abs=0.0101)
    assert len(sound.samples) / RATE == pytest.approx(1.6, abs=0.05)
    assert sound.probe.times_s.tolist() == media.probe(late).times_s.tolist()
    assert sound.probe.audio is not None
    assert sound.probe.audio.sample_rate_hz == (48000 if codec else 44100)


def test_another_file_that_cannot_be_heard_is_no_sound(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "c.mp4")
    mute = make_clip(tmp_path / "mute.mp4", *MPEG4, sound=None)
    text = tmp_path / "text.wav"
    text.write_text("no sound" * 100)
    assert len(hear(mute, audio=clip)) > 0
    for audio, reason in ((mute, "no sound track"), (text, "not a media file")):
        with pytest.raises(media.NoAudioError, match=f"its sound's file: {reason}"):
            hear(clip, audio=audio)
    with pytest.raises(media.MediaError, match="no video stream"):
        hear(make_clip(tmp_path / "sound.mp4", "-map", "1", "-c:a", "aac"), audio=clip)


# --- no sound --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BROKEN)
def test_broken_sound_beside_a_good_picture_is_no_sound(tmp_path: Path, name: str) -> None:
    make, reason = BROKEN[name]
    path = make(tmp_path / name)
    assert media.probe(path).duration_s == pytest.approx(1, abs=0.1)
    with pytest.raises(media.NoAudioError, match=reason):
        hear(path)


def test_the_first_track_that_can_be_decoded_is_heard(tmp_path: Path) -> None:
    """Telephones put sound of a codec of their own beside the usual one."""
    two = make_clip(
        tmp_path / "two.mp4", "-map", "0", "-map", "1", "-map", "1", *H264, "-c:a:0", "aac", "-c:a:1", "ac3"
    )
    two.write_bytes(two.read_bytes().replace(b"mp4a", b"zzzz"))
    assert len(hear(two)) == pytest.approx(RATE, abs=600)


def test_a_file_of_another_project_without_a_description_of_its_sound(field: Path) -> None:
    path = field / "sample_missing_stsd.mp4"
    assert media.probe(path).duration_s == pytest.approx(1, abs=0.1)
    with pytest.raises(media.NoAudioError, match="codec is not known"):
        hear(path)
