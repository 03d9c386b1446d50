"""One file's road to the networks: what the stages do one after the other, in this process and in memory.

Every step is the stages' own function, so that a new file gets the features that it would have in a cache.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schemas.windows import ClipWindows, Windowed
from pipeline import media
from pipeline.detector.parts import Parts
from pipeline.detector.people import Face, Numbers, faces_of
from pipeline.detector.prediction import WhichFaces
from pipeline.faces.clip import Shown, every_face
from pipeline.features.amounts import face_windows, powers, spectrum
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
    layers: Mapping[str, NDArray[Any]] = field(repr=False)
    """{layer: (windows, L, C_in)}, rounded as a cache has them; audio layers are zeros where there is no sound."""
    arrays: Mapping[str, NDArray[Any]] = field(repr=False)
    """{name: (windows, ...)}: what the stages before `features` store of them."""
    available_s: float
    """Length of what there is from each start, at most a window."""
    looked_at_s: tuple[float, ...]
    """Where those begin that show a face, the ones that cannot be scored included."""
    has_audio: bool
    planned: int
    """So many windows the whole file has, those without a face included."""
    done: int
    """So many of them lie before the end of this stretch."""
    face_windows: float
    """Of this stretch: as `amounts.face_windows` counts them."""
    powers: tuple[NDArray[np.int64], NDArray[np.float64]] = field(repr=False)
    """Of the sound of the windows that were looked at: as `amounts.powers` gives them."""
    spectrum: NDArray[np.float64] = field(repr=False)
    """The same windows' mean power, as `amounts.spectrum` gives it."""
    face_px: float
    """The median width of the main face, in pixels of the picture."""
    fps: float
    pictures: int
    """In the whole file"""
    faces: tuple[Face, ...] = ()
    """All that stay long enough, the main one among them; empty where only that was asked for."""


class Road:
    """By the backbones that a run was trained on. Several threads may walk it at once."""

    def __init__(self, params: Params, parts: Parts) -> None:
        self._params, self._parts = params, parts

    def walk(self, path: Path, *, hop_s: float | None = None, faces: WhichFaces = "main") -> Iterator[Walked]:
        """What the networks read of a file; raises MediaError, which says why, where nothing of it can be used.

        hop_s: None for the windows that the stages would cut, in one stretch. Else a window begins every so many
        seconds, the file is read to LONGEST_S, and what is yielded is of STRETCH_WINDOWS at most: memory does not grow
        with the file. Faces are followed within a stretch, so that where several people are seen, the one who is looked
        at is who weighs most there, not in the whole file. faces: "all" for each other face, too (`Walked.faces`).
        """
        file = media.anywhere(path)
        longest_s, failed, any_walked = None if hop_s is None else LONGEST_S, list[media.MediaError](), False
        numbers = Numbers() if faces == "all" else None
        with ExitStack() as stack:
            with media.one_file(longest_s):
                media.check_file(file)
                heard = stack.enter_context(open_heard(file, self._params, hop_s=hop_s))
            if why := no_sound_reason(heard.info, self._params.windows):
                raise media.MediaError(f"{why}, and this detector needs picture and sound")
            size = len(heard.windows.starts_s) if hop_s is None else STRETCH_WINDOWS
            for first in range(0, len(heard.windows.starts_s), size):
                windows = replace(heard.windows, starts_s=heard.windows.starts_s[first : first + size])
                try:
                    with (
                        media.one_file(longest_s),
                        closing(
                            every_face(file, windows, self._params, found=heard.probe, networks=self._parts.faces)
                        ) as shown,
                    ):
                        walked = self._walked(heard, windows, shown, numbers)
                except media.PassingError:
                    raise
                except media.MediaError as error:  # of this stretch: nobody may be there
                    failed.append(error)
                else:
                    any_walked = True
                    yield walked
        if not any_walked:
            raise failed[0]

    def _walked(
        self, heard: Heard, windows: ClipWindows, shown: Generator[Shown, None, None], numbers: Numbers | None
    ) -> Walked:
        main = next(shown)
        if numbers is None:
            shown.close()  # the pictures are not held while backbones compute
        sound, seen = window_arrays(heard.samples, windows, self._params, by=self._parts.spectrogram), main.windowed
        sounds = sound.by_start()
        arrays = {start: sounds[start] | window for start, window in seen.by_start().items()}
        rows, refused = self.rows(arrays, MODALITIES)
        if not heard.info["has_audio"]:
            rows |= {name: np.zeros_like(x) for name, x in rows.items() if name.startswith("audio/")}
        good = [i for i in range(len(arrays)) if i not in refused]
        if not good:
            raise media.MediaError(
                f"a frozen network gives no number for the window from second {seen.starts_s[0]:g}: it overflows"
            )
        held = {name: np.stack([window[name] for window in arrays.values()]) for name in arrays[seen.starts_s[0]]}
        return Walked(
            starts_s=tuple(seen.starts_s[i] for i in good),
            layers={name: x[good] for name, x in rows.items()},
            arrays={name: x[good] for name, x in held.items()},
            available_s=heard.windows.available_s,
            looked_at_s=seen.starts_s,
            has_audio=heard.info["has_audio"],
            planned=len(heard.windows.starts_s),
            done=heard.windows.starts_s.index(windows.starts_s[-1]) + 1,
            face_windows=face_windows(seen.arrays["probabilities"]),
            powers=powers(
                held["waveform"],
                seen.starts_s,
                available_s=heard.windows.available_s,
                sample_rate_hz=self._params.spectrograms.sample_rate_hz,
            ),
            spectrum=spectrum(held["waveform"]),
            face_px=_median_width(seen),
            fps=heard.probe.fps,
            pictures=len(heard.probe.times_s),
            faces=() if numbers is None else self._faces(main, rows, refused, shown, numbers),
        )

    def rows(
        self, arrays: Mapping[float, Mapping[str, NDArray[Any]]], modalities: Collection[str]
    ) -> tuple[dict[str, NDArray[Any]], dict[int, str]]:
        """({layer: (windows, L, C_in)}, {window's number: why a cache would not have it})."""
        layers, refused, params = dict[str, NDArray[Any]](), dict[int, str](), self._params
        for backbone in (each for each in self._parts.backbones if each.modality in modalities):
            length, dtype = params.features.length, params.features.dtype
            rows, bad = window_rows(arrays, backbone, length=length, dtype=dtype, params=params.spectrograms)
            layers |= rows
            refused = bad | refused
        return layers, refused

    def _faces(
        self,
        main: Shown,
        rows: Mapping[str, NDArray[Any]],
        refused: Collection[int],
        shown: Iterable[Shown],
        numbers: Numbers,
    ) -> tuple[Face, ...]:
        """All faces of a stretch; rows, refused: the main face's, from which the others take what is heard."""
        starts = main.windowed.starts_s
        made = [(main, rows, refused)]
        for other in shown:
            seen, bad = self.rows(other.windowed.by_start(), ("visual",))
            at = [starts.index(start) for start in other.windowed.starts_s]
            heard = {name: x[at] for name, x in rows.items() if name not in seen}
            made.append((other, heard | seen, {*bad, *(i for i, k in enumerate(at) if k in refused)}))
        return tuple(faces_of(made, numbers))


def _median_width(seen: Windowed) -> float:
    boxes = seen.arrays["boxes"][seen.arrays["probabilities"] > 0]
    return float(np.median(boxes[:, 2] - boxes[:, 0]))
