"""The sound of a clip on the clip's clock: sample i is heard i / rate seconds after the first picture is shown."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.media.files import MediaError, NoAudioError, PassingError
from pipeline.media.process import memory_files, reading
from pipeline.media.timeline import Probe, describe, probe
from pipeline.media.told import ToldOfSound, check_told

_LOUDEST = 1e6
"""Full scale is 1, and some programs write floats up to 32768. The power of what is far louder is no float."""


@dataclass(frozen=True)
class Sound:
    """A sound track, mono, and the picture's timeline."""

    samples: NDArray[np.float32] = field(repr=False)
    """(samples,)"""
    sample_rate_hz: int
    probe: Probe


def read_sound(path: Path, *, sample_rate_hz: int, audio: Path | None = None) -> Sound:
    """The first sound track: silence where it starts late or has a hole, cut to the picture's time.

    audio: another file, whose sound is heard in place of the clip's own, from the first picture on.
    Raises NoAudioError when there is no sound that can be used, PassingError when a file cannot be read now,
    MediaError when there is no picture.
    """
    if audio is None:
        header, blocks, decoded = _decode(path, sample_rate_hz=sample_rate_hz, alone=False)
        found = describe(path, header, blocks["packets"])
        start = check_told(header, ToldOfSound).start_s
        start_s = 0.0 if start is None else start - found.shown_s
    else:
        found, start_s = probe(path), 0.0
        try:
            header, _, decoded = _decode(audio, sample_rate_hz=sample_rate_hz, alone=True)
        except PassingError:
            raise
        except MediaError as error:
            raise NoAudioError(f"its sound's file: {error}") from error
        found = replace(found, n_audio=1, audio=check_told(header, ToldOfSound).audio)
    first, last = (round(seconds * sample_rate_hz) for seconds in (start_s, found.duration_s))
    heard = decoded[max(-first, 0) : max(last - first, 0)]
    if len(heard) == 0:
        raise NoAudioError("the sound track lies outside the picture's time")
    samples = np.zeros(max(first, 0) + len(heard), np.float32)
    samples[max(first, 0) :] = heard  # the decoder may still write to its own
    if not -_LOUDEST <= samples.min() <= samples.max() <= _LOUDEST:
        raise NoAudioError("the sound track decodes to values that are not finite, or louder than any sound")
    return Sound(samples, sample_rate_hz, found)


def _decode(
    path: Path, *, sample_rate_hz: int, alone: bool
) -> tuple[dict[str, Any], dict[str, memoryview], NDArray[np.float32]]:
    """The decoder's header and blocks, and its samples: mono, at the rate, from the first that there is."""
    request = {"sample_rate_hz": sample_rate_hz, "alone": alone}
    with memory_files(1) as (file,), reading("read_sound", path, [file.fileno()], request) as process:
        header, blocks = process.result()
        if os.fstat(file.fileno()).st_size < 4:
            raise NoAudioError("the sound track is empty or cannot be decoded")
        return header, blocks, np.memmap(file, "<f4", "r")
