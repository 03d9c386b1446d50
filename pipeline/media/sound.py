"""The sound of a clip on the clip's clock: sample i is heard i / rate seconds after the first picture is shown."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.media.files import MediaError, NoAudioError, PassingError
from pipeline.media.process import memory_file, nonsense, reading
from pipeline.media.timeline import Probe, describe, probe
from pipeline.media.told import ToldOfSound, check_told

_LOUDEST = 1e6
"""Full scale is 1, and some programs write floats up to 32768. The power of what is far louder is no float."""
_LARGE_BYTES = 64 << 20
"""The sound of larger files is laid down on the disk, not in memory."""


class StoredSamples:
    """A track's samples where its decoder has laid them down: a slice of them is read when it is asked for."""

    def __init__(self, file: IO[bytes], *, silent: int, skipped: int, heard: int) -> None:
        """Silence, then so many of the file's float32, but for those that are skipped."""
        self._file, self._silent, self._skipped, self._heard = file, silent, skipped, heard

    def __len__(self) -> int:
        return self._silent + self._heard

    def __getitem__(self, part: slice) -> NDArray[np.float32]:
        """(n,), new memory; NoAudioError where they are no sound."""
        first, last, _ = part.indices(len(self))
        found = np.zeros(max(last - first, 0), np.float32)
        begin = max(first, self._silent)
        if begin < last:
            data = self._read(4 * (self._skipped + begin - self._silent), 4 * (last - begin))
            found[begin - first :] = np.frombuffer(data, "<f4")
            if not -_LOUDEST <= found.min() <= found.max() <= _LOUDEST:
                raise NoAudioError("the sound track decodes to values that are not finite, or louder than any sound")
        return found

    def _read(self, place: int, size: int) -> bytes:
        pieces = []
        while size > 0:
            piece = os.pread(self._file.fileno(), size, place)
            if not piece:
                raise nonsense()  # the decoder has cut its file since
            pieces.append(piece)
            place, size = place + len(piece), size - len(piece)
        return b"".join(pieces)


Samples: TypeAlias = NDArray[np.float32] | StoredSamples
"""(samples,)"""


@dataclass(frozen=True)
class Sound:
    """A sound track, mono, and the picture's timeline."""

    samples: NDArray[np.float32] = field(repr=False)
    """(samples,)"""
    sample_rate_hz: int
    probe: Probe


@dataclass(frozen=True)
class OpenSound:
    """The same before it is read."""

    samples: StoredSamples
    sample_rate_hz: int
    probe: Probe


def read_sound(path: Path, *, sample_rate_hz: int, audio: Path | None = None) -> Sound:
    """As `open_sound`, all of it in memory."""
    with open_sound(path, sample_rate_hz=sample_rate_hz, audio=audio) as found:
        return Sound(found.samples[:], sample_rate_hz, found.probe)


@contextmanager
def open_sound(path: Path, *, sample_rate_hz: int, audio: Path | None = None) -> Iterator[OpenSound]:
    """The first sound track: silence where it starts late or has a hole, cut to the picture's time.

    audio: another file, whose sound is heard in place of the clip's own, from the first picture on.
    Raises NoAudioError when there is no sound that can be used, PassingError when a file cannot be read now,
    MediaError when there is no picture.
    """
    with _place_for(audio or path) as file:
        if audio is None:
            header, blocks = _decode(path, file, sample_rate_hz=sample_rate_hz, alone=False)
            found = describe(path, header, blocks["packets"])
            start = check_told(header, ToldOfSound).start_s
            start_s = 0.0 if start is None else start - found.shown_s
        else:
            found, start_s = probe(path), 0.0
            try:
                header, _ = _decode(audio, file, sample_rate_hz=sample_rate_hz, alone=True)
            except PassingError:
                raise
            except MediaError as error:
                raise NoAudioError(f"its sound's file: {error}") from error
            found = replace(found, n_audio=1, audio=check_told(header, ToldOfSound).audio)
        first, last = (round(seconds * sample_rate_hz) for seconds in (start_s, found.duration_s))
        skipped = max(-first, 0)
        heard = min(os.fstat(file.fileno()).st_size // 4, max(last - first, 0)) - skipped
        if heard <= 0:
            raise NoAudioError("the sound track lies outside the picture's time")
        samples = StoredSamples(file, silent=max(first, 0), skipped=skipped, heard=heard)
        yield OpenSound(samples, sample_rate_hz, found)


def _place_for(path: Path) -> IO[bytes]:
    """An empty file without a name for the sound of `path`."""
    try:
        large = path.stat().st_size > _LARGE_BYTES
    except OSError:  # it is said by whoever opens it
        large = False
    return tempfile.TemporaryFile() if large else memory_file()


def _decode(
    path: Path, file: IO[bytes], *, sample_rate_hz: int, alone: bool
) -> tuple[dict[str, Any], dict[str, memoryview]]:
    """The decoder's header and blocks; `file` gets its samples: mono, at the rate, from the first that there is."""
    request = {"sample_rate_hz": sample_rate_hz, "alone": alone}
    with reading("read_sound", path, [file.fileno()], request) as process:
        header, blocks = process.result()
        if os.fstat(file.fileno()).st_size < 4:
            raise NoAudioError("the sound track is empty or cannot be decoded")
        return header, blocks
