"""One file's road to the networks: what the stages do one after the other, in this process and in memory.

Every step is the stages' own function, so that a new file gets the features that it would have in a cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cache_schemas.windows import ClipWindows, Windowed
from pipeline import media
from pipeline.backbones import Backbone, bare_identity, load_backbone
from pipeline.compute.machine import device_of
from pipeline.faces.clip import file_faces
from pipeline.features.amounts import face_windows, seconds_heard
from pipeline.features.forward import MODALITIES, window_rows
from pipeline.params import Params
from pipeline.sound.clip import file_sound, no_sound_reason


class DetectorError(RuntimeError):
    """A trained run cannot be used here; the message says why and what to do."""


@dataclass(frozen=True)
class Walked:
    """The windows of a file that can be scored, and what is known of all that were looked at."""

    starts_s: tuple[float, ...]
    layers: Mapping[str, torch.Tensor] = field(repr=False)
    """{layer: (windows, L, C_in)}, rounded as a cache has them; audio layers are zeros where there is no sound."""
    has_audio: bool
    face_share: float
    """Of the pictures looked at, those that show the face."""
    speech_s: float


class Road:
    """The backbones that a run was trained on, loaded. Several threads may walk it at once."""

    def __init__(self, params: Params, trained_on: Mapping[str, Mapping[str, Any]]) -> None:
        """trained_on: {variant: a backbone's identity}; DetectorError where the backbones are others today."""
        self._params = params
        device = device_of(params.compute)
        self._backbones: list[Backbone] = [
            load_backbone(modality, chosen, device)
            for modality in MODALITIES
            for chosen in getattr(params.features, modality)
        ]
        made = [bare_identity(backbone.identity()) for backbone in self._backbones]
        if made != [bare_identity(identity) for identity in trained_on.values()]:
            raise DetectorError(
                "predict: the backbones' weights are not those that the networks were trained on; "
                "restore them, or run `dvc repro` again"
            )

    def walk(self, path: Path) -> Walked:
        """What the networks read of a file; raises MediaError, which says why, where it cannot be used."""
        file = media.inside(Path("/"), str(path.absolute()))
        with media.one_file():
            media.check_file(file)
            sound = file_sound(file, self._params)
            if why := no_sound_reason(sound.info, self._params.windows):
                raise media.MediaError(why)
            windows = ClipWindows("", sound.starts_s, sound.info["available_s"])
            faces = file_faces(file, windows, self._params)
        return self._features(sound, faces)

    def _features(self, sound: Windowed, faces: Windowed) -> Walked:
        heard = sound.by_start()
        arrays = {start: heard[start] | seen for start, seen in faces.by_start().items()}
        layers, refused, params = dict[str, torch.Tensor](), dict[int, str](), self._params
        for backbone in self._backbones:
            rows, bad = window_rows(
                arrays,
                backbone,
                length=params.features.length,
                dtype=params.features.dtype,
                params=params.spectrograms,
            )
            mute = backbone.modality == "audio" and not sound.info["has_audio"]
            layers |= {name: torch.zeros_like(x) if mute else x for name, x in rows.items()}
            refused = bad | refused
        good = [i for i in range(len(arrays)) if i not in refused]
        if not good:
            raise media.MediaError(f"window from {faces.starts_s[0]:g} s: {refused[0]}")
        return Walked(
            starts_s=tuple(faces.starts_s[i] for i in good),
            layers={name: x[good] for name, x in layers.items()},
            has_audio=sound.info["has_audio"],
            face_share=face_windows(faces.arrays["probabilities"]) / len(sound.starts_s),
            speech_s=self._speech_s(sound, faces),
        )

    def _speech_s(self, sound: Windowed, faces: Windowed) -> float:
        if not sound.info["has_audio"]:
            return 0.0
        return seconds_heard(
            sound.arrays["waveform"][[sound.starts_s.index(start) for start in faces.starts_s]],
            faces.starts_s,
            available_s=sound.info["available_s"],
            sample_rate_hz=self._params.spectrograms.sample_rate_hz,
            silence_db=self._params.windows.silence_db,
        )
