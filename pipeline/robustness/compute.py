"""One clip, degraded once: read through the door, degraded by ffmpeg, read again, and run through the backbones.

Nothing that a stranger made reaches ffmpeg: it is fed the pixels and samples that came through the door. Pictures and
sound are degraded apart, and on the clip's own clock: a degraded picture is shown when the original was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cache_schemas.features import FeatureCache
from cache_schemas.files import replacing
from cache_schemas.manifest import Clip
from cache_schemas.windows import ClipWindows
from pipeline import media
from pipeline.faces.clip import file_faces
from pipeline.features.forward import window_rows
from pipeline.features.recompute import backbones_of
from pipeline.params import Params
from pipeline.robustness.degrade import (
    DEGRADATIONS,
    Degraded,
    Given,
    Modality,
    unchanged_picture,
    unchanged_sound,
)
from pipeline.shards.windows import plan_windows
from pipeline.sound.clip import leading_silence_s, window_arrays
from pipeline.sound.stage import sound_file

_RATES_HZ = (8000, 48_000)
"""Between these sound is degraded, whatever a header says."""
_FALLBACK_FPS = 25.0  # of a clip of one picture
Arrays = dict[float, dict[str, NDArray[Any]]]
"""{start_s: what the stages before `features` store of that window}."""


@dataclass(frozen=True)
class Wanted:
    """One clip under one condition. Paths are absolute: the worker may have started in another folder."""

    clip: Clip
    windows: ClipWindows
    """Those of the clip as it is."""
    degradation: str
    severity: int
    """0: none, but through all the same."""
    seed: int
    file: Path
    """Where it is kept; the name tells everything that it depends on."""
    cache: Path
    params: Params


@dataclass(frozen=True)
class Found:
    """What is kept of it: the rows of what was computed anew, or why there are none."""

    starts_s: tuple[float, ...] = ()
    available_s: float = 0.0
    layers: Mapping[str, torch.Tensor] = field(default_factory=dict, repr=False)
    """{layer: (windows, L, C_in)}"""
    reason: str = ""

    def write(self, path: Path) -> None:
        """Replaces `path`."""
        told = {"starts_s": list(self.starts_s), "available_s": self.available_s, "reason": self.reason}
        with replacing(path, lasting=False) as temporary:
            save_file(dict(self.layers), temporary, metadata={"found": json.dumps(told)})

    @classmethod
    def read(cls, path: Path) -> Found | None:
        """What `path` holds; None where there is no such file, or it is damaged."""
        try:
            with safe_open(path, framework="pt") as file:
                told = json.loads(file.metadata()["found"])
                layers = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return None
        return cls(tuple(told["starts_s"]), told["available_s"], layers, told["reason"])


def compute_one(wanted: Wanted) -> str:
    """Keeps the clip's rows, or why its degraded content has none; what else was in the way is returned, in words."""
    try:
        with media.one_file():
            found = _degraded_rows(wanted)
    except media.PassingError as error:
        return str(error)
    except media.MediaError as error:
        found = Found(reason=str(error))
    except Exception as error:  # one bad clip never stops a run, however it is bad
        return f"unexpected {type(error).__name__}: {error}"
    found.write(wanted.file)
    return ""


def _degraded_rows(wanted: Wanted) -> Found:
    clip, root = wanted.clip, Path(wanted.params.data.root).resolve()
    path, *sound = (media.inside(root, name) for name in (clip.file_name, clip.audio_file_name) if name)
    size = sum(media.check_file(each) for each in (path, *sound))
    if size != clip.file_bytes:
        raise media.PassingError(f"the file has {size} bytes, {clip.file_bytes} when `bmnas manifest` saw it")
    degradation = DEGRADATIONS[wanted.degradation]
    windows, mute = wanted.windows, False
    with TemporaryDirectory(prefix="bmnas-robustness-") as folder:
        if degradation.modality == "visual":
            arrays = _seen(wanted, path, Path(folder) / "picture")
        elif degradation.modality == "audio":
            arrays = _heard(wanted, path, Path(folder) / "sound")
        else:
            windows, arrays, mute = _replanned(wanted, path)
        layers = _run_backbones(wanted, arrays, degradation.modality)
    if mute:
        layers |= {name: torch.zeros_like(rows) for name, rows in layers.items() if name.startswith("audio/")}
    return Found(tuple(arrays), windows.available_s, layers)


def _seen(wanted: Wanted, path: Path, target: Path) -> Arrays:
    """The crops of the degraded pictures, in the clip's own windows; degraded are the pictures up to the last one's
    end, but for what lies between windows.
    """
    found = media.probe(path)
    starts = enumerate(wanted.windows.starts_s)
    spans = [(start if i else 0.0, start + wanted.windows.available_s) for i, start in starts]
    height, fps = min(found.height_px, media.MAX_FRAME_HEIGHT_PX), found.fps or _FALLBACK_FPS
    times: list[NDArray[np.float64]] = []
    with media.open_video(path, found=found, full_at_s=[0.0], small_height_px=height, spans_s=spans) as video:
        width, height = video.small_size_px

        def feed() -> Iterator[memoryview]:
            for frames in video.small():
                times.append(frames.times_s)
                yield np.ascontiguousarray(frames.pixels).data

        pictures = media.raw_pictures(width, height, fps=fps)
        given = Given(wanted.seed, width_px=width, height_px=height)
        degraded = _degrade(wanted, pictures, given)
        media.write_streams(target, [degraded.stream], feed(), lasting=False, r=fps, **degraded.options)
    shown, again = np.concatenate(times), media.probe(target)
    if len(again.times_s) != len(shown):
        raise media.MediaError(f"{len(shown)} pictures were degraded, {len(again.times_s)} came back")
    # They are known by their numbers: each is shown when the original was, whatever the container rounds to.
    again = replace(again, times_s=shown, fps=found.fps)
    return file_faces(target, wanted.windows, wanted.params, found=again).by_start()


def _heard(wanted: Wanted, path: Path, target: Path) -> Arrays:
    """The spectrograms of the degraded sound, in the clip's own windows."""
    params, audio = wanted.params, sound_file(Path(wanted.params.data.root).resolve(), wanted.clip)
    told = media.read_sound(path, sample_rate_hz=params.spectrograms.sample_rate_hz, audio=audio).probe.audio
    rate = int(np.clip(told.sample_rate_hz if told else 0, *_RATES_HZ))  # the file's own: nothing is lost by it
    samples = media.read_sound(path, sample_rate_hz=rate, audio=audio).samples
    given = Given(wanted.seed, rate_hz=rate, level=float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))))
    degraded = _degrade(wanted, media.raw_sound(sample_rate_hz=rate), given)
    media.write_streams(target, [degraded.stream], [samples.tobytes()], lasting=False, **degraded.options)
    again = media.read_sound(path, sample_rate_hz=params.spectrograms.sample_rate_hz, audio=target)
    return window_arrays(again.samples, wanted.windows, params).by_start()


def _degrade(wanted: Wanted, stream: Any, given: Given) -> Degraded:
    degradation = DEGRADATIONS[wanted.degradation]
    if wanted.severity == 0:
        return unchanged_picture(stream) if degradation.modality == "visual" else unchanged_sound(stream)
    assert degradation.graph is not None  # noqa: S101 - as the registry has it
    return degradation.graph(stream, degradation.values[wanted.severity - 1], given)


def _replanned(wanted: Wanted, path: Path) -> tuple[ClipWindows, Arrays, bool]:
    """(other windows of the clip as it is, what they show and sound like, whether there is nothing to hear)."""
    params, rate = wanted.params, wanted.params.spectrograms.sample_rate_hz
    try:
        sound = media.read_sound(
            path, sample_rate_hz=rate, audio=sound_file(Path(params.data.root).resolve(), wanted.clip)
        )
        samples, found = sound.samples, sound.probe
        duration = min(found.duration_s, len(samples) / rate)
    except media.NoAudioError:
        if params.windows.missing_modality == "quarantine":
            raise
        found, samples = media.probe(path), np.zeros(0, np.float32)
        duration = found.duration_s
    start, length, trimmed = _piece(wanted, duration)
    piece = samples[round(start * rate) : round((start + length) * rate)]
    silence = 0.0
    if len(piece) and trimmed:
        silence = leading_silence_s(piece, sample_rate_hz=rate, silence_db=params.windows.silence_db)
    windows = plan_windows(
        wanted.clip.clip_id, duration_s=length, leading_silence_s=silence, params=params.windows
    )  # a piece has a clock of its own
    moved = replace(windows, starts_s=tuple(round(start + each, 6) for each in windows.starts_s))
    _require_fake(wanted.clip, start, start + length)
    faces = file_faces(path, moved, params, found=found)
    heard = window_arrays(piece if len(piece) else np.zeros(1, np.float32), windows, params)
    sounds = replace(heard, starts_s=moved.starts_s).by_start()
    return moved, {at: sounds[at] | seen for at, seen in faces.by_start().items()}, not len(piece)


def _piece(wanted: Wanted, duration_s: float) -> tuple[float, float, bool]:
    """(start, length, whether its leading silence is trimmed) of the piece of the clip that is looked at."""
    if wanted.degradation == "silence-kept" and wanted.severity:
        return 0.0, duration_s, False
    share = DEGRADATIONS[wanted.degradation].values[wanted.severity - 1] if wanted.severity else 1.0
    place = np.random.default_rng(wanted.seed).random()
    return place * (1 - share) * duration_s, share * duration_s, wanted.params.windows.trim_silence


def _require_fake(clip: Clip, start_s: float, end_s: float) -> None:
    """Raises MediaError where a fake clip's piece holds nothing fake."""
    if clip.label and not any(clip.labels_between(start_s, end_s)):
        raise media.MediaError("its fake seconds are not in the piece")


def _run_backbones(wanted: Wanted, arrays: Arrays, modality: Modality) -> dict[str, torch.Tensor]:
    """{layer: (windows, L, C_in)} as a cache would hold them; raises MediaError where its numbers cannot say them."""
    params, found = wanted.params, dict[str, torch.Tensor]()
    for variant, backbone in backbones_of(FeatureCache.open(wanted.cache), params).items():
        if modality in (variant.modality, "both"):
            rows, refused = window_rows(
                arrays,
                backbone,
                clip_id=wanted.clip.clip_id,
                length=variant.length,
                dtype=variant.dtype,
                params=params.spectrograms,
            )
            for why in refused.values():
                raise media.MediaError(why)
            found |= {layer: torch.from_numpy(x) for layer, x in rows.items()}
    return found
