"""Stage `spectrograms`: sound -> windows -> spectrograms. The windows it plans are the picture's too."""

from __future__ import annotations

import functools
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torchaudio.functional import melscale_fbanks

from cache_schemas.files import digest
from cache_schemas.manifest import read_manifest
from cache_schemas.media import SPECTROGRAMS, ClipWindows, write_windows
from cache_schemas.shards import ClipEntry, ClipResult
from pipeline import media
from pipeline.params import Params, SpectrogramParams, WindowParams
from pipeline.shards.stage import ClipJob, run_shard_stage
from pipeline.shards.windows import plan_windows, window_samples
from pipeline.workspace import Workspace

_VERSION = 6  # raise it when the same parameters give other values
_SILENCE_HOP_S = 0.010
_PCM_SCALE = 2**15
_FLOOR = 1e-6  # added to the power before the logarithm: about what 16-bit quantisation leaves of silence


def spectrogram_key(params: Params) -> str:
    """Names everything that the spectrogram of a clip depends on, besides the clip."""
    return digest("spectrograms", _VERSION, params.windows.naming(), params.spectrograms.naming())


def build_spectrograms(workspace: Workspace, params: Params) -> dict[str, ClipEntry]:
    """{clip_id: where its spectrograms lie}; writes shards, windows.csv and the quarantine list."""
    clips = read_manifest(workspace.manifest)
    entries = run_shard_stage(
        workspace.spectrograms,
        SPECTROGRAMS,
        spectrogram_key(params),
        [ClipJob(clip, plan="") for clip in clips],
        clip_spectrograms,
        workspace=workspace,
        params=params,
        most_at_once=2,
        refuse=partial(why_left_out, params=params.windows),
    )
    windows = [ClipWindows(i, entry.starts_s, entry.info["available_s"]) for i, entry in entries.items()]
    write_windows(workspace.windows, windows)
    return entries


def why_left_out(entry: ClipEntry, *, params: WindowParams) -> str:
    """Why the parameters leave out a clip that went well, or ""."""
    left_out = params.missing_modality == "quarantine" and not entry.info["has_audio"]
    return f"{entry.info['no_audio']} (missing_modality: quarantine)" if left_out else ""


def clip_spectrograms(job: ClipJob, path: Path, params: Params) -> ClipResult:
    """One clip's windows, their spectrograms and their sound; raises MediaError when it cannot be used.

    A clip without sound gets silence; whether it may do without is asked later (`why_left_out`).
    """
    rate = params.spectrograms.sample_rate_hz
    no_audio, leading_silence, samples = "", 0.0, None
    try:
        sound = media.read_sound(path, sample_rate_hz=rate)
        silence_db = params.windows.silence_db
        leading_silence = leading_silence_s(sound.samples, sample_rate_hz=rate, silence_db=silence_db)
        video, samples = sound.probe, sound.samples
    except media.NoAudioError as error:
        video, no_audio = media.probe(path), str(error)
    # Without usable sound the picture decides; with it, a window is where both are.
    sound_s = video.duration_s if samples is None else len(samples) / rate
    windows = plan_windows(
        job.clip.clip_id,
        duration_s=min(video.duration_s, sound_s),
        leading_silence_s=leading_silence,
        params=params.windows,
    )
    heard = np.zeros(1, np.float32) if samples is None else samples
    waves = window_samples(heard, windows, sample_rate_hz=rate, params=params.windows)
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
    spectrogram = compute_spectrogram(torch.from_numpy(waves), params.spectrograms)
    arrays = {"spectrogram": spectrogram.numpy(), "waveform": to_pcm(waves)}
    return ClipResult(job.clip.clip_id, job.plan, windows.starts_s, arrays, info)


def loudness_db(samples: NDArray[np.float32]) -> float:
    """The mean power of samples (n,), in decibels of full scale; -120 for none."""
    return 10 * float(np.log10(float(np.mean(np.square(samples, dtype=np.float64))) + 1e-12))


def leading_silence_s(samples: NDArray[np.float32], *, sample_rate_hz: int, silence_db: float) -> float:
    """Seconds before the first 10 ms that are less than `silence_db` below the loudest 10 ms.

    Raises NoAudioError when there is nothing but silence. On FakeAVCeleb and AV-Deepfake1M this one number tells
    real from fake (arXiv 2412.00175): hence it is measured for every clip, and cut off.
    """
    hop = round(_SILENCE_HOP_S * sample_rate_hz)
    padded = np.pad(samples.astype(np.float64), (0, -len(samples) % hop))
    power = np.square(padded).reshape(-1, hop).mean(axis=1)
    if power.max() < 1e-10:
        raise media.NoAudioError("the sound track is silent throughout")
    first = int(np.argmax(power >= power.max() * 10 ** (-silence_db / 10)))
    return first * _SILENCE_HOP_S


def to_pcm(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """int16 of samples in -1..1: times 2^15, rounded half to even; what lies outside is clipped, 1.0 to 32767."""
    return np.clip(np.rint(samples * _PCM_SCALE), -_PCM_SCALE, _PCM_SCALE - 1).astype(np.int16)


def from_pcm(waveform: NDArray[np.int16]) -> NDArray[np.float32]:
    """Samples in -1..1 of int16: the inverse of `to_pcm` but for its rounding and clipping."""
    samples: NDArray[np.float32] = waveform.astype(np.float32) / np.float32(_PCM_SCALE)
    return samples


def compute_spectrogram(waves: torch.Tensor, params: SpectrogramParams) -> torch.Tensor:
    """(N, bands, hops) float32, ln power; waves: (N, samples). Every hop starts inside the window."""
    hop = round(params.hop_s * params.sample_rate_hz)
    length = round(params.stft_window_s * params.sample_rate_hz)
    window, bands = _constants(params, length)
    lines = torch.stft(waves, params.n_fft, hop, length, window, pad_mode="reflect", return_complex=True)
    lines = lines[..., : max(1, waves.shape[-1] // hop)]
    power = torch.addcmul(lines.real.square(), lines.imag, lines.imag)  # abs() takes a root for each
    if bands is not None:
        power = (power.transpose(1, 2) @ bands).transpose(1, 2)  # the same with any number of threads
    return power.add_(_FLOOR).log_()


@functools.cache
def _constants(params: SpectrogramParams, length: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(the Hann window, (n_fft // 2 + 1, n_mels) triangles on the mel scale of O'Shaughnessy, none for linear)."""
    window = torch.hann_window(length)
    if params.kind == "linear":
        return window, None
    rate = params.sample_rate_hz
    return window, melscale_fbanks(params.n_fft // 2 + 1, 0.0, rate // 2, params.n_mels, rate)
