"""What a file is like for those who are to judge it, in words: nothing but what was measured."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.params import FaceParams

_ENLARGED = 2.0
"""From here on three of four pixels that the networks see are made up between the file's own."""
_FACELESS = 0.1  # less than every tenth picture may be a face that was turned away for a moment
_CLOSED_S = 0.08
"""Lips close for about so long: at fewer pictures a second they may do so unseen."""
_BELOW_PEAK_DB = 50.0
"""Sound that is so much weaker than the loudest band, on average, is taken for none: recordings with their whole band
stay above it to beyond 7 kHz, and what a resampler or codec lets through beyond its end is below it."""
_WHOLE_BAND = 0.8
_TELEPHONE_HZ = 4600.0  # 4 kHz, and the slope behind it


def quality(
    params: FaceParams,
    *,
    face_px: float,
    face_share: float,
    fps: float,
    pictures: int,
    speech_s: float | None,
    ends_hz: float | None,
    listens_to_hz: float,
) -> tuple[str, ...]:
    """The sentences.

    face_px: the main face's width, the median; face_share: of the pictures looked at that show it; pictures: in the
    file; speech_s: above silence, None without sound; ends_hz: as `sound_ends_hz` gives it; listens_to_hz: so far do
    the networks hear at all.
    """
    return (*_seen(params, face_px, face_share, fps, pictures), *_heard(speech_s, ends_hz, listens_to_hz))


def _seen(params: FaceParams, face_px: float, face_share: float, fps: float, pictures: int) -> Iterator[str]:
    larger = params.size_px / (face_px * (1 + params.margin))
    enlarged = f": enlarged {larger:.1f} times for the networks" if larger >= _ENLARGED else ""
    yield f"the face is {face_px:.0f} px wide{enlarged}"
    if (missed := 1 - face_share) >= _FACELESS:
        yield f"no face for {missed:.0%} of the time looked at"
    if pictures < params.frames:
        yield f"{pictures} pictures in all, fewer than the {params.frames} that one window takes"
    elif fps * _CLOSED_S < 1:
        yield f"{fps:.3g} pictures a second: lips that close for {_CLOSED_S:g} s may do so unseen"
    else:
        yield f"{fps:.3g} pictures a second"


def _heard(speech_s: float | None, ends_hz: float | None, listens_to_hz: float) -> Iterator[str]:
    if speech_s is None:
        yield "no sound"
        return
    yield f"{speech_s:.1f} s of sound above silence"
    if ends_hz is not None and ends_hz < _WHOLE_BAND * listens_to_hz:
        why = ": telephone, or resampled" if ends_hz <= _TELEPHONE_HZ else f" of {listens_to_hz / 1000:g}"
        yield f"the sound ends at {ends_hz / 1000:.1f} kHz{why}"


def sound_ends_hz(spectrum: NDArray[np.float64], sample_rate_hz: int) -> float | None:
    """The highest frequency that sounds, or None; spectrum: (bins,) mean power, as `amounts.spectrum` gives it."""
    if not spectrum.max() > 0:
        return None
    sounds = np.flatnonzero(spectrum >= spectrum.max() * 10 ** (-_BELOW_PEAK_DB / 10))
    return float(sounds[-1] + 1) * sample_rate_hz / 2 / len(spectrum)
