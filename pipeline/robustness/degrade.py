"""What clips go through on their way to us, in five severities: graphs of ffmpeg over raw pictures and samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import ffmpeg

SEVERITIES = (1, 2, 3, 4, 5)
_LOSSLESS_PICTURE = {"f": "matroska", "c:v": "libx264rgb", "qp": 0, "preset": "ultrafast"}
_LOSSLESS_SOUND = {"f": "wav", "c:a": "pcm_f32le"}
_MP3_HZ = 24_000  # MPEG-2's rate, which has the low bit rates: at 48 kHz the lowest is 32 kbit/s
_LUMA = {"r": 0.2126, "g": 0.7152, "b": 0.0722}  # BT.709
_LN_1000 = 6.908  # of an amplitude that falls by 60 dB

Modality = Literal["visual", "audio", "both"]


@dataclass(frozen=True)
class Degraded:
    """A stream as it leaves its graph, and how ffmpeg writes it down."""

    stream: Any
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Given:
    """What a graph may need to know of what it is given; the sizes of the other modality are 0."""

    seed: int
    """Of all that is drawn: the same seed gives the same bytes."""
    width_px: int = 0
    height_px: int = 0
    rate_hz: int = 0
    level: float = 0.0
    """Root of the sound's mean power, full scale 1."""


Graph = Callable[[Any, float, Given], Degraded]
"""(ffmpeg's stream of raw pictures or sound, the setting, what is known of it) -> the degraded stream."""


def unchanged_picture(pictures: Any) -> Degraded:
    """The pictures to the bit, through everything that a degraded one goes through."""
    return Degraded(pictures.filter("format", "gbrp"), _LOSSLESS_PICTURE)


def unchanged_sound(sound: Any) -> Degraded:
    """The samples to the bit, the same way."""
    return Degraded(sound, _LOSSLESS_SOUND)


def _h264(pictures: Any, crf: float, _given: Given) -> Degraded:
    # Even sides, for its colours are halved; the matrix is named, so that whoever reads it need not guess.
    even = pictures.filter("pad", "ceil(iw/2)*2", "ceil(ih/2)*2")
    yuv = even.filter("scale", out_color_matrix="bt709", out_range="tv", flags="accurate_rnd+full_chroma_int")
    named = {"colorspace": "bt709", "color_range": "tv"}
    coding = {"c:v": "libx264", "preset": "veryfast", "crf": crf, "pix_fmt": "yuv420p"}
    return Degraded(yuv, {"f": "matroska", **coding, **named})


def _scaled(pictures: Any, share: float, given: Given) -> Degraded:
    small = [max(2, round(share * side)) for side in (given.width_px, given.height_px)]
    down = pictures.filter("scale", *small, flags="area")
    return unchanged_picture(down.filter("scale", given.width_px, given.height_px, flags="bicubic"))


def _blurred(pictures: Any, sigma_px: float, _given: Given) -> Degraded:
    return unchanged_picture(pictures.filter("format", "gbrp").filter("gblur", sigma=sigma_px))


def _noisy_picture(pictures: Any, strength: float, given: Given) -> Degraded:
    planes = pictures.filter("format", "gbrp")
    return unchanged_picture(planes.filter("noise", alls=strength, allf="t", all_seed=given.seed))


def _darker(pictures: Any, share: float, _given: Given) -> Degraded:
    return unchanged_picture(pictures.filter("colorlevels", romax=share, gomax=share, bomax=share))


def _paler(pictures: Any, saturation: float, _given: Given) -> Degraded:
    mix = {
        f"{to}{of}": (1 - saturation) * weight + saturation * (to == of) for to in _LUMA for of, weight in _LUMA.items()
    }
    return unchanged_picture(pictures.filter("colorchannelmixer", **mix))


def _mp3(sound: Any, kbps: float, _given: Given) -> Degraded:
    return Degraded(sound, {"f": "mp3", "c:a": "libmp3lame", "b:a": f"{kbps:g}k", "ar": _MP3_HZ})


def _opus(sound: Any, kbps: float, _given: Given) -> Degraded:
    return Degraded(sound, {"f": "ogg", "c:a": "libopus", "b:a": f"{kbps:g}k"})


def _noisy_sound(sound: Any, snr_db: float, given: Given) -> Degraded:
    # White noise of amplitude a is spread evenly over -a..a: its power is a third of a squared.
    amplitude = min(1.0, 3**0.5 * given.level * 10 ** (-snr_db / 20))
    source = f"anoisesrc=color=white:amplitude={amplitude:.9f}:seed={given.seed}:sample_rate={given.rate_hz}"
    mixed = ffmpeg.filter([sound, ffmpeg.input(source, f="lavfi")], "amix", inputs=2, normalize=0, duration="first")
    return unchanged_sound(mixed)


def _band_limited(sound: Any, highest_hz: float, given: Given) -> Degraded:
    # Down to twice the highest frequency and back, as telephones do it: steeper than any simple filter.
    return unchanged_sound(sound.filter("aresample", round(2 * highest_hz)).filter("aresample", given.rate_hz))


def _pitched(sound: Any, semitones: float, given: Given) -> Degraded:
    faster = 2 ** (semitones / 12)
    raised = sound.filter("asetrate", round(given.rate_hz * faster)).filter("aresample", given.rate_hz)
    return unchanged_sound(raised.filter("atempo", 1 / faster))


def _reverberant(sound: Any, decay_s: float, given: Given) -> Degraded:
    """A room: what comes straight, and as much power again in a noise that falls by 60 dB in `decay_s`."""
    tail = (6 * _LN_1000 / decay_s / given.rate_hz) ** 0.5  # of evenly spread noise, whose power is a third
    room = f"if(eq(n,0),1,{tail:.6f}*(2*random(0)-1)*exp(-{_LN_1000 / decay_s:.6f}*t))*{0.5**0.5:.6f}"
    source = ffmpeg.input(f"aevalsrc=exprs='{room}':duration={decay_s:g}:sample_rate={given.rate_hz}", f="lavfi")
    return unchanged_sound(ffmpeg.filter([sound, source], "afir", irnorm=-1, irgain=1))


def _late(sound: Any, shift_ms: float, _given: Given) -> Degraded:
    return unchanged_sound(sound.filter("adelay", f"{shift_ms:g}", all=1))


@dataclass(frozen=True)
class Degradation:
    """One kind of change, and its five settings from mild to severe."""

    title: str
    modality: Modality
    """What of a clip is computed anew; the other's features are those of the clip as it is."""
    setting: str
    """How a setting is written, as "CRF {:g}"."""
    values: tuple[float, ...]
    graph: Graph | None = field(default=None, repr=False)
    """None: nothing is written, the clip as it is gets other windows."""

    def setting_of(self, severity: int) -> str:
        """The setting of a severity (1: the mildest), in words."""
        return self.setting.format(self.values[severity - 1])


DEGRADATIONS: Mapping[str, Degradation] = {
    "h264": Degradation("H.264", "visual", "CRF {:g}", (23, 28, 32, 36, 40), _h264),
    "scale": Degradation("made smaller and large again", "visual", "{:.0%}", (0.75, 0.5, 0.35, 0.25, 0.15), _scaled),
    "blur": Degradation("blur", "visual", "{:g} px", (0.5, 1, 2, 3, 5), _blurred),
    "noise": Degradation("noise in the picture", "visual", "strength {:g}", (5, 10, 20, 30, 50), _noisy_picture),
    "brightness": Degradation("less light", "visual", "{:.0%}", (0.8, 0.65, 0.5, 0.35, 0.2), _darker),
    "saturation": Degradation("less colour", "visual", "{:.0%}", (0.8, 0.6, 0.4, 0.2, 0), _paler),
    "mp3": Degradation("MP3", "audio", "{:g} kbit/s", (64, 48, 32, 24, 16), _mp3),
    "opus": Degradation("Opus", "audio", "{:g} kbit/s", (32, 24, 16, 12, 8), _opus),
    "white-noise": Degradation("white noise", "audio", "{:g} dB SNR", (30, 20, 15, 10, 5), _noisy_sound),
    "band-limit": Degradation("band limit", "audio", "{:g} Hz", (6000, 5000, 4000, 3000, 2000), _band_limited),
    "pitch": Degradation("higher pitch", "audio", "{:g} semitones", (0.5, 1, 2, 3, 4), _pitched),
    "reverb": Degradation("reverberation", "audio", "RT60 {:g} s", (0.2, 0.4, 0.7, 1, 1.5), _reverberant),
    "shift": Degradation("sound late", "audio", "{:g} ms", (40, 80, 160, 240, 400), _late),
    "crop": Degradation("only a piece of it", "both", "{:.0%}", (0.8, 0.65, 0.5, 0.35, 0.2)),
    "silence-kept": Degradation("leading silence kept", "both", "not trimmed", (1,)),
}
