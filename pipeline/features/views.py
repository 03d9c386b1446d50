"""Views: variants of a window to train on, since frozen features cannot be augmented. View 0 is the window itself.

What is done to a view is drawn from its key and number alone (`visual_plan`, `sound_plan`), then carried out in this
process and in one thread: the same input, key and view give the same bytes anywhere on this machine.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import gcd
from typing import Literal

import av
import numpy as np
import torch
from av.video.reformatter import Interpolation
from numpy.typing import NDArray
from PIL import Image
from scipy.signal import resample_poly
from torch.nn.functional import avg_pool1d, pad
from torchvision.transforms.v2 import functional as transforms

from cache_schemas.files import digest
from pipeline.params import FeatureParams, SpectrogramParams
from pipeline.sound.clip import compute_spectrogram, from_pcm, to_pcm

VisualChange = Literal["jpeg", "h264", "blur", "noise"]
SoundCodec = Literal["mp3", "opus"]

VISUAL_STRENGTHS: Mapping[VisualChange, tuple[float, float]] = {
    "jpeg": (40, 90),  # quality
    "h264": (23, 35),  # constant rate factor
    "blur": (0.5, 1.5),  # sigma, px
    "noise": (1, 6),  # sigma, grey levels
}
SMALLEST_CROP = 0.85
"""Side of the smallest crop, as a fraction of the side."""
GAIN_DB = 6.0
SNR_DB = (15.0, 40.0)
KBPS: Mapping[SoundCodec, tuple[float, float]] = {"mp3": (24, 64), "opus": (12, 32)}
LARGEST_MASK = 0.1
"""Of a mask over bands or hops, as a fraction of all of them."""
_REMEDY = "install PyAV's own build (pip install --force-reinstall --only-binary av av), or set features.views: 1"


class ViewError(RuntimeError):
    """A view cannot be made here; the message names what is missing and the way out."""


@dataclass(frozen=True)
class VisualPlan:
    """What is done to the crops of a window, to all of its frames alike, in this order."""

    mirrored: bool
    side: float
    """Of the crop that is scaled back to full size, as a fraction of the side."""
    left: float
    """Where the crop lies: 0 leftmost, 1 rightmost."""
    top: float
    changes: tuple[tuple[VisualChange, float], ...]
    """One or two, each with its strength."""
    noise_seed: int


@dataclass(frozen=True)
class SoundPlan:
    """What is done to the sound of a window, in this order."""

    gain_db: float
    snr_db: float | None
    """Of white noise over the window's mean power; None: no noise."""
    codec: SoundCodec | None
    kbps: float
    noise_seed: int


def visual_plan(key: str, view: int) -> VisualPlan:
    """The changes of a view: mirrored in half of them, then a crop of 85 to 100 % of the side scaled back, then one or
    two of JPEG (quality 40 to 90), H.264 (crf 23 to 35), Gaussian blur (sigma 0.5 to 1.5 px) and Gaussian noise (sigma
    1 to 6 of 255), in any order; every range is drawn from uniformly.
    """
    rng = _random("visual", key, view)
    names = rng.permutation(list(VISUAL_STRENGTHS))[: rng.integers(1, 2, endpoint=True)]
    return VisualPlan(
        mirrored=bool(rng.random() < 0.5),
        side=rng.uniform(SMALLEST_CROP, 1),
        left=rng.random(),
        top=rng.random(),
        changes=tuple((name, rng.uniform(*VISUAL_STRENGTHS[name])) for name in names.tolist()),
        noise_seed=int(rng.integers(2**63)),
    )


def sound_plan(key: str, view: int) -> SoundPlan:
    """The changes of a view: a gain of -6 to 6 dB, then white noise (SNR 15 to 40 dB), re-encoding, or both, each in a
    third of the views. Re-encoding is MP3 (24 to 64 kbit/s) or Opus (12 to 32 kbit/s); every range is drawn from
    uniformly.
    """
    rng = _random("sound", key, view)
    noisy, coded = [(True, False), (False, True), (True, True)][rng.integers(3)]
    codec: SoundCodec = "mp3" if rng.random() < 0.5 else "opus"
    return SoundPlan(
        gain_db=rng.uniform(-GAIN_DB, GAIN_DB),
        snr_db=rng.uniform(*SNR_DB) if noisy else None,
        codec=codec if coded else None,
        kbps=rng.uniform(*KBPS[codec]),
        noise_seed=int(rng.integers(2**63)),
    )


def visual_view(crops: NDArray[np.uint8], *, key: str, view: int) -> NDArray[np.uint8]:
    """(T, S, S, 3) uint8, RGB: the crops as `visual_plan` changes them; view 0 is `crops` itself.

    key: names the window. A pseudo-fake, below 0, keeps the picture as it is.
    """
    if view <= 0:
        return crops
    plan = visual_plan(key, view)
    pixels = _crop(torch.tensor(crops).permute(0, 3, 1, 2), plan)
    for name, strength in plan.changes:
        if name == "jpeg":
            pixels = _jpeg(pixels, quality=round(strength))
        elif name == "h264":
            pixels = _h264(pixels, crf=strength)
        elif name == "blur":
            pixels = transforms.gaussian_blur(pixels, [7, 7], [strength, strength])
        else:
            source = torch.Generator().manual_seed(plan.noise_seed)
            noise = strength * torch.randn(pixels.shape, generator=source)
            pixels = noise.add_(pixels).round_().clamp_(0, 255).to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())


def views_of(features: FeatureParams) -> list[int]:
    """The views of a window in the order of its rows: 0, 1, 2 ..., and then its pseudo-fakes -1, -2 ..."""
    return [*range(features.views), *range(-1, -1 - features.pseudo, -1)]


def sound_view(
    waveform: NDArray[np.int16],
    spectrogram: NDArray[np.float32],
    *,
    key: str,
    view: int,
    params: SpectrogramParams,
) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """(waveform, spectrogram) of a view: the changed sound, and its spectrogram with masks.

    waveform: (samples,) int16; spectrogram: (bands, hops) float32, that of view 0; key: names the window. View 0 is
    the given pair itself. Below 0 are the pseudo-fakes, which have no masks.
    """
    if view == 0:
        return waveform, spectrogram
    changed = audio_view(waveform, rate_hz=params.sample_rate_hz, key=key, view=view)
    heard = compute_spectrogram(from_pcm(changed)[None], params)[0]
    return changed, heard if view < 0 else mask_spectrogram(heard, key=key, view=view)


def audio_view(waveform: NDArray[np.int16], *, rate_hz: int, key: str, view: int) -> NDArray[np.int16]:
    """(samples,) int16: the sound as `sound_plan` changes it, neither shifted nor cut; view 0 is `waveform` itself.

    Where the gain would clip the loudest sample there is less of it. key: names the window. View -d is draw d of its
    pseudo-fakes: the sound `smoothed`.
    """
    if view == 0:
        return waveform
    if view < 0:
        sound = torch.from_numpy(from_pcm(waveform))
        return to_pcm(smoothed(sound, _random("smoothed", key, -view), rate_hz=rate_hz).numpy())
    plan = sound_plan(key, view)
    samples = from_pcm(waveform)
    peak = max(float(np.abs(samples).max()), 1e-9)
    samples = samples * np.float32(min(10 ** (plan.gain_db / 20), 1 / peak))
    if plan.snr_db is not None:
        level = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) * 10 ** (-plan.snr_db / 20)
        noise = np.random.default_rng(plan.noise_seed).standard_normal(len(samples), dtype=np.float32)
        samples = samples + np.float32(level) * noise
    if plan.codec is not None:
        samples = _recode_sound(samples, plan.codec, kbps=plan.kbps, rate_hz=rate_hz)
    return to_pcm(samples)


def smoothed(waveform: torch.Tensor, random: np.random.Generator, *, rate_hz: int) -> torch.Tensor:
    """(samples,) float32: 3, 5 or 7 frames of the log spectrum averaged, under the phase it had; as loud as before.

    Frames are 32 or 64 ms long and a quarter or a fifth of that apart. Acoustic models blur speech so.
    """
    size, frames = int(random.choice([32, 64]) * rate_hz // 1000), int(random.choice([3, 5, 7]))
    hop, window = size // int(random.choice([4, 5])), torch.hann_window(size)
    spectrum = torch.stft(waveform, size, hop, window=window, return_complex=True)
    padded = pad(spectrum.abs().clamp_min(1e-5).log()[None], (frames // 2, frames // 2), mode="replicate")
    magnitudes = avg_pool1d(padded, frames, 1)[0].exp()
    blurred = torch.istft(torch.polar(magnitudes, spectrum.angle()), size, hop, window=window, length=len(waveform))
    return blurred * (waveform.std() / (blurred.std() + 1e-9))


def mask_spectrogram(spectrogram: NDArray[np.float32], *, key: str, view: int) -> NDArray[np.float32]:
    """(bands, hops) float32 with masks like SpecAugment's: one or two over bands and one or two over hops.

    Each covers 0 to 10 % of its axis with the spectrogram's mean. View 0 is `spectrogram` itself.
    """
    if view == 0:
        return spectrogram
    rng = _random("masks", key, view)
    masked = spectrogram.copy()
    fill = spectrogram.mean()
    for axis in (masked, masked.T):
        for _ in range(rng.integers(1, 2, endpoint=True)):
            width = rng.integers(0, int(len(axis) * LARGEST_MASK), endpoint=True)
            start = rng.integers(0, len(axis) - width, endpoint=True)
            axis[start : start + width] = fill
    return masked


def _random(purpose: str, key: str, view: int) -> np.random.Generator:
    return np.random.default_rng(int(digest(purpose, key, view), 16))


def _crop(pixels: torch.Tensor, plan: VisualPlan) -> torch.Tensor:
    size = pixels.shape[-1]
    side = max(1, round(plan.side * size))
    left, top = round(plan.left * (size - side)), round(plan.top * (size - side))
    if plan.mirrored:
        pixels = pixels.flip(-1)
    scaled: torch.Tensor = transforms.resized_crop(pixels, top, left, side, side, [size, size], antialias=True)
    return scaled


def _jpeg(pixels: torch.Tensor, *, quality: int) -> torch.Tensor:
    """(T, 3, S, S) uint8, each frame after one trip through JPEG."""
    decoded = []
    for picture in pixels.permute(0, 2, 3, 1).contiguous().numpy():
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "jpeg", quality=quality)
        decoded.append(np.asarray(Image.open(file)))
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2)


# PyAV decodes in this process, without the walls that `pipeline.media` puts around strangers' files: what goes through
# it here are our own pixels and samples, encoded a moment ago.


_EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
"""Of the colours' conversion: the default one darkens every picture by a grey level, which a network could learn."""


def _h264(pixels: torch.Tensor, *, crf: float) -> torch.Tensor:
    """(T, 3, S, S) uint8 after one trip through H.264 as the frames of a clip."""
    _require_encoder("libx264")
    size = pixels.shape[-1]
    padding = [0, 0, size % 2, size % 2]  # H.264 with halved colour wants even sides
    pictures = transforms.pad(pixels, padding, padding_mode="edge").permute(0, 2, 3, 1).contiguous().numpy()
    encoder = av.CodecContext.create("libx264", "w")
    encoder.thread_count = 1
    encoder.width = encoder.height = pictures.shape[1]
    encoder.pix_fmt = "yuv420p"
    encoder.time_base = Fraction(1, 25)
    encoder.options = {"preset": "superfast", "crf": f"{crf:.3f}"}
    packets = []
    for i, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
            format="yuv420p", interpolation=_EXACT, threads=1
        )
        frame.pts = i
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    frames = [frame for packet in (*packets, None) for frame in decoder.decode(packet)]
    if len(frames) != len(pixels):
        raise ViewError(f"H.264: {len(pixels)} frames went in, {len(frames)} came out; {_REMEDY}")
    back = [frame.reformat(format="rgb24", interpolation=_EXACT, threads=1).to_ndarray() for frame in frames]
    return torch.from_numpy(np.stack(back)).permute(0, 3, 1, 2)[..., :size, :size]


@dataclass(frozen=True)
class _SoundCodec:
    encoder: Literal["libmp3lame", "libopus"]
    decoder: Literal["mp3", "libopus"]
    sample_format: str
    effort: str
    """The encoder's least: for MP3 it costs half of its default, for Opus two thirds."""


_SOUND_CODECS: Mapping[SoundCodec, _SoundCodec] = {
    "mp3": _SoundCodec("libmp3lame", "mp3", "s16p", "9"),
    "opus": _SoundCodec("libopus", "libopus", "s16", "0"),
}


def _recode_sound(samples: NDArray[np.float32], name: SoundCodec, *, kbps: float, rate_hz: int) -> NDArray[np.float32]:
    """(samples,) after one trip through a codec, at the lowest rate it has that is not below `rate_hz`."""
    codec = _SOUND_CODECS[name]
    _require_encoder(codec.encoder)
    rates = sorted(av.Codec(codec.encoder, "w").audio_rates or [rate_hz])
    coded_hz = next((rate for rate in rates if rate >= rate_hz), rates[-1])
    sound = to_pcm(_resample(samples, rate_hz, coded_hz))
    decoded, decoded_hz = _through(codec, sound, kbps=kbps, rate_hz=coded_hz)
    heard = _resample(from_pcm(decoded), decoded_hz, rate_hz)[: len(samples)]
    if len(heard) < len(samples):
        raise ViewError(f"{name}: {len(samples)} samples went in, {len(heard)} came out; {_REMEDY}")
    return heard


def _through(
    codec: _SoundCodec, sound: NDArray[np.int16], *, kbps: float, rate_hz: int
) -> tuple[NDArray[np.int16], int]:
    """(samples and a little more, their rate in Hz). The decoder itself leaves out the encoder's delay."""
    encoder = av.CodecContext.create(codec.encoder, "w")
    encoder.thread_count = 1
    encoder.sample_rate, encoder.layout, encoder.format = rate_hz, "mono", codec.sample_format
    encoder.time_base = Fraction(1, rate_hz)
    encoder.bit_rate = round(kbps * 1000)
    encoder.options = {"compression_level": codec.effort}
    frame = av.AudioFrame.from_ndarray(sound[None], format=codec.sample_format, layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = rate_hz, 0, encoder.time_base
    packets = [*encoder.encode(frame), *encoder.encode(None)]
    decoder = av.CodecContext.create(codec.decoder, "r")
    decoder.thread_count = 1
    decoder.sample_rate, decoder.layout, decoder.extradata = rate_hz, "mono", encoder.extradata
    frames = [frame for packet in (*packets, None) for frame in decoder.decode(packet)]
    return np.concatenate([frame.to_ndarray().ravel() for frame in frames]), frames[0].sample_rate


def _resample(samples: NDArray[np.float32], from_hz: int, to_hz: int) -> NDArray[np.float32]:
    common = gcd(from_hz, to_hz)
    found: NDArray[np.float32] = resample_poly(samples, to_hz // common, from_hz // common)
    return found


def _require_encoder(name: str) -> None:
    try:
        av.Codec(name, "w")
    except av.codec.codec.UnknownCodecError:
        raise ViewError(f"views: PyAV {av.__version__} has no encoder {name} here; {_REMEDY}") from None
