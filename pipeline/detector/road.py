"""One file's road to the networks: what the stages do one after the other, in this process and in memory.

Every step is the stages' own function, so that a new file gets the features that it would have in a cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache_schemas.windows import Windowed
from pipeline import media
from pipeline.backbones import Backbone, Modality, bare_identity, load_backbone
from pipeline.compute.machine import device_of
from pipeline.faces.clip import file_faces
from pipeline.features.amounts import face_windows, powers
from pipeline.features.forward import MODALITIES, window_rows
from pipeline.params import Params
from pipeline.sound.clip import Heard, no_sound_reason, open_heard, window_arrays

STRETCH_WINDOWS = 8
LONGEST_S = 8 * 3600.0
"""What lies behind it is not read, however long a file is: its sound would fill more of a disk than a decoder may."""


class DetectorError(RuntimeError):
    """A trained run cannot be used here; the message says why and what to do."""


@dataclass(frozen=True)
class Walked:
    """The windows of a stretch of a file that can be scored, and what is known of all that were looked at."""

    starts_s: tuple[float, ...]
    layers: Mapping[str, torch.Tensor] = field(repr=False)
    """{layer: (windows, L, C_in)}, rounded as a cache has them; audio layers are zeros where there is no sound."""
    arrays: Mapping[str, NDArray[Any]] = field(repr=False)
    """{name: (windows, ...)}: what the stages before `features` store of them."""
    available_s: float
    """Length of what there is from each start, at most a window."""
    has_audio: bool
    planned: int
    """So many windows the whole file has, those without a face included."""
    face_windows: float
    """Of this stretch: as `amounts.face_windows` counts them."""
    powers: tuple[NDArray[np.int64], NDArray[np.float64]] = field(repr=False)
    """Of this stretch's sound: as `amounts.powers` gives them."""


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

    def walk(self, path: Path, *, hop_s: float | None = None) -> Iterator[Walked]:
        """What the networks read of a file; raises MediaError, which says why, where nothing of it can be used.

        hop_s: None for the windows that the stages would cut, in one stretch. Else a window begins every so many
        seconds, the file is read to LONGEST_S, and what is yielded is of STRETCH_WINDOWS at most: memory does not grow
        with the file. Faces are followed within a stretch, so that where several people are seen, the one who is looked
        at is who weighs most there, not in the whole file.
        """
        file = media.inside(Path("/"), str(path.absolute()))
        longest_s, failed, any_walked = None if hop_s is None else LONGEST_S, list[media.MediaError](), False
        with ExitStack() as stack:
            with media.one_file(longest_s):
                media.check_file(file)
                heard = stack.enter_context(open_heard(file, self._params, hop_s=hop_s))
            if why := no_sound_reason(heard.info, self._params.windows):
                raise media.MediaError(why)
            size = len(heard.windows.starts_s) if hop_s is None else STRETCH_WINDOWS
            for first in range(0, len(heard.windows.starts_s), size):
                windows = replace(heard.windows, starts_s=heard.windows.starts_s[first : first + size])
                try:
                    with media.one_file(longest_s):
                        faces = file_faces(file, windows, self._params, found=heard.probe)
                    walked = self._walked(heard, window_arrays(heard.samples, windows, self._params), faces)
                except media.PassingError:
                    raise
                except media.MediaError as error:  # of this stretch: nobody may be there
                    failed.append(error)
                else:
                    any_walked = True
                    yield walked
        if not any_walked:
            raise failed[0]

    def features(
        self, windows: Sequence[Mapping[str, NDArray[Any]]], *modalities: Modality
    ) -> tuple[dict[str, torch.Tensor], dict[int, str]]:
        """({layer: (windows, L, C_in)} as a cache would hold them, {window's number: why it would not}).

        windows: what the stages before `features` store of each.
        """
        layers, refused, params = dict[str, torch.Tensor](), dict[int, str](), self._params
        for backbone in self._backbones:
            if backbone.modality in modalities:
                rows, bad = window_rows(
                    dict(enumerate(windows)),
                    backbone,
                    length=params.features.length,
                    dtype=params.features.dtype,
                    params=params.spectrograms,
                )
                layers |= rows
                refused = bad | refused
        return layers, refused

    def _walked(self, heard: Heard, sound: Windowed, faces: Windowed) -> Walked:
        sounds, params = sound.by_start(), self._params
        windows = [sounds[start] | seen for start, seen in faces.by_start().items()]
        layers, refused = self.features(windows, *MODALITIES)
        has_audio = heard.info["has_audio"]
        if not has_audio:
            layers = {name: torch.zeros_like(x) if name.startswith("audio") else x for name, x in layers.items()}
        good = [i for i in range(len(windows)) if i not in refused]
        if not good:
            raise media.MediaError(f"window from {faces.starts_s[0]:g} s: {refused[0]}")
        arrays = {name: np.stack([window[name] for window in windows]) for name in windows[0]}
        return Walked(
            starts_s=tuple(faces.starts_s[i] for i in good),
            layers={name: x[good] for name, x in layers.items()},
            arrays={name: x[good] for name, x in arrays.items()},
            available_s=heard.windows.available_s,
            has_audio=has_audio,
            planned=len(heard.windows.starts_s),
            face_windows=face_windows(faces.arrays["probabilities"]),
            powers=powers(
                arrays["waveform"],
                faces.starts_s,
                available_s=heard.windows.available_s,
                sample_rate_hz=params.spectrograms.sample_rate_hz,
            ),
        )
