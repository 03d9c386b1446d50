"""One file's road to the networks: what the stages do one after the other, in this process and in memory.

Every step is the stages' own function, so that a new file gets the features that it would have in a cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schemas.windows import Windowed
from pipeline import media
from pipeline.detector.parts import Parts
from pipeline.faces.clip import file_faces
from pipeline.features.amounts import face_windows, powers
from pipeline.features.forward import window_rows
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
    layers: Mapping[str, NDArray[Any]] = field(repr=False)
    """{layer: (windows, L, C_in)}, rounded as a cache has them; audio layers are zeros where there is no sound."""
    has_audio: bool
    planned: int
    """So many windows the whole file has, those without a face included."""
    face_windows: float
    """Of this stretch: as `amounts.face_windows` counts them."""
    powers: tuple[NDArray[np.int64], NDArray[np.float64]] = field(repr=False)
    """Of this stretch's sound: as `amounts.powers` gives them."""


class Road:
    """By the backbones that a run was trained on. Several threads may walk it at once."""

    def __init__(self, params: Params, parts: Parts) -> None:
        self._params, self._parts = params, parts

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
                        faces = file_faces(file, windows, self._params, found=heard.probe, networks=self._parts.faces)
                    sound = window_arrays(heard.samples, windows, self._params, by=self._parts.spectrogram)
                    walked = self._walked(heard, sound, faces)
                except media.PassingError:
                    raise
                except media.MediaError as error:  # of this stretch: nobody may be there
                    failed.append(error)
                else:
                    any_walked = True
                    yield walked
        if not any_walked:
            raise failed[0]

    def _walked(self, heard: Heard, sound: Windowed, faces: Windowed) -> Walked:
        sounds = sound.by_start()
        arrays = {start: sounds[start] | seen for start, seen in faces.by_start().items()}
        layers, refused, params = dict[str, NDArray[Any]](), dict[int, str](), self._params
        has_audio, length, dtype = heard.info["has_audio"], params.features.length, params.features.dtype
        for backbone in self._parts.backbones:
            rows, bad = window_rows(arrays, backbone, length=length, dtype=dtype, params=params.spectrograms)
            mute = backbone.modality == "audio" and not has_audio
            layers |= {name: np.zeros_like(x) if mute else x for name, x in rows.items()}
            refused = bad | refused
        good = [i for i in range(len(arrays)) if i not in refused]
        if not good:
            raise media.MediaError(f"window from {faces.starts_s[0]:g} s: {refused[0]}")
        return Walked(
            starts_s=tuple(faces.starts_s[i] for i in good),
            layers={name: x[good] for name, x in layers.items()},
            has_audio=has_audio,
            planned=len(heard.windows.starts_s),
            face_windows=face_windows(faces.arrays["probabilities"]),
            powers=powers(
                np.stack([window["waveform"] for window in arrays.values()]),
                faces.starts_s,
                available_s=heard.windows.available_s,
                sample_rate_hz=params.spectrograms.sample_rate_hz,
            ),
        )
