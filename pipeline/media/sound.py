"""The sound of a clip on the clip's clock: sample i is heard i / rate seconds after the first picture is shown."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from pipeline.media.files import MediaError
from pipeline.media.process import MAX_SECONDS, memory_files, reading
from pipeline.media.timeline import Probe, describe

_MAX_DRIFT_S = 0.010
"""Stamps are rounded (Matroska: to 1 ms). Only where they are off by more than this is sound missing or doubled."""
_Piece = tuple[float, int, int]
"""Of decoded sound: when it starts (s; NaN where it does not say), its samples, their rate (Hz)."""


@dataclass(frozen=True)
class Sound:
    """The first sound track, mono, and the picture's timeline from the same reading."""

    samples: NDArray[np.float32] = field(repr=False)
    """(samples,)"""
    sample_rate_hz: int
    probe: Probe


def read_sound(path: Path, *, sample_rate_hz: int) -> Sound:
    """The first sound track: silence where it starts late or has a hole, cut where it starts before the picture.

    Raises NoAudioError when there is no track, MediaError when it cannot be decoded or there is no picture.
    """
    with memory_files(1) as (file,), reading("read_sound", path, [file.fileno()], {}) as process:
        header, blocks = process.result()
        found = describe(path, header, blocks["packets"])
        if os.fstat(file.fileno()).st_size < 4:
            raise MediaError("the sound track is empty or cannot be decoded")
        decoded = np.memmap(file, "<f4", "r")
        starts_s = np.frombuffer(blocks["starts_s"], np.float64)
        counts, rates_hz = (np.frombuffer(blocks[name], np.int64) for name in ("counts", "rates_hz"))
    if not np.isfinite(decoded).all():
        raise MediaError("the sound track decodes to values that are not finite")
    pieces = zip((starts_s - found.shown_s).tolist(), counts.tolist(), rates_hz.tolist(), strict=True)
    samples = _lay_out(decoded, pieces, sample_rate_hz=sample_rate_hz)
    if len(samples) == 0:
        raise MediaError("the sound track lies outside the picture's time")
    return Sound(samples, sample_rate_hz, found)


def _lay_out(decoded: NDArray[np.float32], pieces: Iterable[_Piece], *, sample_rate_hz: int) -> NDArray[np.float32]:
    """(samples,) at the rate: the pieces of `decoded`, laid where they start; holes are silence.

    A piece goes where the one before ends, unless its stamp is off by more than the stamps' rounding.
    """
    limit = round(MAX_SECONDS * sample_rate_hz)
    laid: list[tuple[int, NDArray[np.float32]]] = []
    for start_s, begin, end, rate in _runs(pieces):
        # soxr's HQ is flat to 91 % of the new band, 120 dB down where it would alias, and late by nothing.
        run = soxr.resample(decoded[begin:end], rate, sample_rate_hz, quality="HQ")
        first = round(start_s * sample_rate_hz)
        laid.append((max(first, 0), run[max(-first, 0) :]))
    samples = np.zeros(min(limit, max((at + len(run) for at, run in laid if len(run)), default=0)), np.float32)
    for at, run in laid:
        fitting = run[: max(len(samples) - at, 0)]
        samples[at : at + len(fitting)] = fitting
    return samples


def _runs(pieces: Iterable[_Piece]) -> list[tuple[float, int, int, int]]:
    """(start in s, begin and end in the samples, rate) of every stretch without a hole, an overlap or a new rate."""
    runs: list[tuple[float, int, int, int]] = []
    begin, expected_s = 0, 0.0
    for stamp_s, count, rate in pieces:
        start_s = stamp_s if math.isfinite(stamp_s) else expected_s
        if runs and rate == runs[-1][3] and abs(start_s - expected_s) <= _MAX_DRIFT_S:
            runs[-1] = (*runs[-1][:2], begin + count, rate)
        else:
            runs.append((start_s, begin, begin + count, rate))
        begin += count
        expected_s = runs[-1][0] + (begin - runs[-1][1]) / rate
    return runs
