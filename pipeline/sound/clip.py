"""The sound of one file: its windows, their spectrograms, and what is known of the whole; in memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cache_schemas.windows import ClipWindows, Windowed
from pipeline import media
from pipeline.params import Params, SpectrogramParams, WindowParams
from pipeline.shards.windows import MIN_AVAILABLE_S, plan_windows, window_samples

if TYPE_CHECKING:
    import torch

_SILENCE_HOP_S = 0.010
_BLOCK_HOPS, _BLOCK_SAMPLES = 1000, 1 << 18  # read at once, so that an hour takes no more memory than a minute
_PCM_SCALE = 2**15
FLOOR = 1e-6  # added to the power before the logarithm: about what 16-bit quantisation leaves of silence


@dataclass(frozen=True)
class Heard:
    """A file's sound, open, and the windows that it and the picture are read in."""

    windows: ClipWindows
    samples: media.Samples
    """Silence where there is none."""
    info: Mapping[str, Any]
    """Of the whole file, plain JSON."""
    probe: media.Probe


def file_sound(path: Path, params: Params, *, audio: Path | None = None, clip_id: str = "") -> Windowed:
    """A file's windows, their spectrograms and their sound; raises MediaError when it cannot be used.

    A file without sound gets silence; whether it may do without is asked later (`no_sound_reason`). audio: the file
    that the sound lies in, where that is another.
    """
    with open_heard(path, params, audio=audio, clip_id=clip_id) as heard:
        return replace(window_arrays(heard.samples, heard.windows, params), info=heard.info)


@contextmanager
def open_heard(
    path: Path, params: Params, *, audio: Path | None = None, clip_id: str = "", hop_s: float | None = None
) -> Iterator[Heard]:
    """The same before it is read, for files of any length; hop_s: as `plan_windows` has it."""
    rate, silence_db = params.spectrograms.sample_rate_hz, params.windows.silence_db
    no_audio, leading_silence, samples = "", 0.0, None
    with ExitStack() as stack:
        try:
            sound = stack.enter_context(media.open_sound(path, sample_rate_hz=rate, audio=audio))
            leading_silence = leading_silence_s(sound.samples, sample_rate_hz=rate, silence_db=silence_db)
            video, samples = sound.probe, sound.samples
        except media.NoAudioError as error:
            video, no_audio = media.probe(path), str(error)
        # Without usable sound the picture decides; with it, a window is where both are.
        sound_s = video.duration_s if samples is None else len(samples) / rate
        try:
            windows = plan_windows(
                clip_id,
                duration_s=min(video.duration_s, sound_s),
                leading_silence_s=leading_silence,
                params=params.windows,
                hop_s=hop_s,
            )
        except media.MediaError as error:
            raise media.MediaError("; ".join(filter(None, (str(error), no_audio)))) from None
        heard = np.zeros(1, np.float32) if samples is None else samples
        info = {
            "available_s": windows.available_s,
            "duration_s": round(video.duration_s, 6),
            "pictures": len(video.times_s),
            "leading_silence_s": round(leading_silence, 6),
            "loudness_db": round(loudness_db(heard), 3),
            "width_px": video.width_px,
            "height_px": video.height_px,
            "fps": round(video.fps, 3),
            "has_audio": samples is not None,
            "no_audio": no_audio,
        }
        yield Heard(windows, heard, info, video)


def no_sound_reason(info: Mapping[str, Any], params: WindowParams) -> str:
    """Why the parameters leave out a file that went well, or ""; info: `file_sound`'s."""
    left_out = params.missing_modality == "quarantine" and not info["has_audio"]
    return str(info["no_audio"]) if left_out else ""


Spectrograms: TypeAlias = Callable[[NDArray[np.float32], SpectrogramParams], NDArray[np.float32]]
"""As `compute_spectrogram`."""


def window_arrays(
    samples: media.Samples, windows: ClipWindows, params: Params, *, by: Spectrograms | None = None
) -> Windowed:
    """The "spectrogram" and "waveform" of the windows of a file's (samples,), as shards hold them.

    by: what makes the spectrogram, where it is not torch.
    """
    rate = params.spectrograms.sample_rate_hz
    waves = window_samples(samples, windows, sample_rate_hz=rate, params=params.windows)
    return Windowed(
        windows.starts_s,
        {"spectrogram": (by or compute_spectrogram)(waves, params.spectrograms), "waveform": to_pcm(waves)},
    )


def loudness_db(samples: media.Samples) -> float:
    """The mean power of samples (n,), in decibels of full scale; -120 for none."""
    power = sum(float(np.square(block, dtype=np.float64).sum()) for block in _blocks(samples, _BLOCK_SAMPLES))
    return 10 * float(np.log10(power / len(samples) + 1e-12))


def leading_silence_s(samples: media.Samples, *, sample_rate_hz: int, silence_db: float) -> float:
    """Seconds before the first 10 ms that are less than `silence_db` below the loudest 10 ms.

    Raises NoAudioError when there is nothing but silence, or next to nothing after it. On FakeAVCeleb and
    AV-Deepfake1M this one number tells real from fake (arXiv 2412.00175): hence it is measured for every clip, and cut
    off.
    """
    hop = round(_SILENCE_HOP_S * sample_rate_hz)
    blocks = (np.pad(block.astype(np.float64), (0, -len(block) % hop)) for block in _blocks(samples, _BLOCK_HOPS * hop))
    power = np.concatenate([np.square(block).reshape(-1, hop).mean(axis=1) for block in blocks])
    if power.max() < 1e-10:
        raise media.NoAudioError("the sound track is silent throughout")
    silence_s = int(np.argmax(power >= power.max() * 10 ** (-silence_db / 10))) * _SILENCE_HOP_S
    heard_s = len(samples) / sample_rate_hz - silence_s
    if heard_s < MIN_AVAILABLE_S:
        raise media.NoAudioError(f"too short: {heard_s:.2f} s of sound, at least {MIN_AVAILABLE_S:g} s needed")
    return silence_s


def _blocks(samples: media.Samples, size: int) -> Iterator[NDArray[np.float32]]:
    """All of them, so many at a time."""
    return (samples[first : first + size] for first in range(0, len(samples), size))


def to_pcm(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """int16 of samples in -1..1: times 2^15, rounded half to even; what lies outside is clipped, 1.0 to 32767."""
    return np.clip(np.rint(samples * _PCM_SCALE), -_PCM_SCALE, _PCM_SCALE - 1).astype(np.int16)


def from_pcm(waveform: NDArray[np.int16]) -> NDArray[np.float32]:
    """Samples in -1..1 of int16: the inverse of `to_pcm` but for its rounding and clipping."""
    samples: NDArray[np.float32] = waveform.astype(np.float32) / np.float32(_PCM_SCALE)
    return samples


def compute_spectrogram(waves: NDArray[np.float32], params: SpectrogramParams) -> NDArray[np.float32]:
    """(N, bands, hops), ln power; waves: (N, samples). Every hop starts inside the window."""
    import torch  # noqa: PLC0415 - an extra, and seconds

    hops = max(1, waves.shape[-1] // round(params.hop_s * params.sample_rate_hz))
    power: torch.Tensor = transform_of(params)(torch.from_numpy(waves))[..., :hops]
    return (power + FLOOR).log_().numpy()


@functools.cache
def transform_of(params: SpectrogramParams) -> torch.nn.Module:
    """torchaudio's: (N, samples) -> (N, bands, steps), the power."""
    from torchaudio.transforms import MelSpectrogram, Spectrogram  # noqa: PLC0415 - as above

    rate = params.sample_rate_hz
    shape = {
        "n_fft": params.n_fft,
        "win_length": round(params.stft_window_s * rate),
        "hop_length": round(params.hop_s * rate),
    }
    transform: torch.nn.Module = Spectrogram(**shape)
    if params.kind == "log_mel":
        transform = MelSpectrogram(rate, n_mels=params.n_mels, **shape)
    return transform
