"""The sound of a clip on the clip's clock: sample i is heard i / rate seconds after the first picture is shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import ffmpeg
import numpy as np
from numpy.typing import NDArray

from pipeline.media.files import MediaError
from pipeline.media.process import MAX_SECONDS, content, media_input, memory_files, run
from pipeline.media.timeline import Probe, describe, packet_output, parse_packets

_MAX_DRIFT_S = 0.010
"""Stamps are rounded (Matroska: to 1 ms). Only where they are off by more than this is sound missing or doubled."""


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
    source = media_input(path)
    # Channels are mixed with weights that sum to 1, so that nothing clips. A long filter: flat to 90 % of the new
    # band, 90 dB down where it would alias.
    mixed = source["a:0"].filter(
        "aresample",
        sample_rate_hz,
        resampler="swr",
        filter_size=128,
        cutoff=0.95,
        out_chlayout="mono",
        out_sample_fmt="flt",
        rematrix_maxval=1,
    )
    split = mixed.filter_multi_output("asplit", 2)
    with memory_files(3) as files:
        packets, stamps, waves = (file.fileno() for file in files)
        log = run(
            packet_output(source, packets, "a:0"),
            ffmpeg.output(split[0], f"pipe:{stamps}", c="pcm_f32le", f="framecrc"),
            ffmpeg.output(split[1], f"pipe:{waves}", c="pcm_f32le", f="f32le"),
            pass_fds=[packets, stamps, waves],
        )
        listing, stamped, raw = (content(file) for file in files)
    found = describe(path, listing.decode("ascii", "replace"), log)
    pieces = parse_packets(stamped.decode("ascii", "replace"), stream=0)
    decoded = np.frombuffer(raw[: len(raw) // 4 * 4], dtype="<f4")
    if len(decoded) == 0:
        raise MediaError("the sound track is empty or cannot be decoded")
    samples = lay_out(decoded, pieces.pts_s - found.shown_s, pieces.sizes // 4, sample_rate_hz=sample_rate_hz)
    if not np.isfinite(samples).all():
        raise MediaError("the sound track decodes to values that are not finite")
    if len(samples) == 0:
        raise MediaError("the sound track lies outside the picture's time")
    return Sound(samples, sample_rate_hz, found)


def lay_out(
    decoded: NDArray[np.float32],
    starts_s: NDArray[np.float64],
    lengths: NDArray[np.int64],
    *,
    sample_rate_hz: int,
) -> NDArray[np.float32]:
    """(samples,): consecutive pieces of `decoded`, of `lengths` samples, laid where they start; holes are silence.

    A piece goes where the one before ends, unless its stamp is off by more than the stamps' rounding.
    """
    stamped = np.rint(starts_s * sample_rate_hz).astype(np.int64)
    ends = np.minimum(np.cumsum(lengths), len(decoded))
    begins = np.concatenate([[0], ends[:-1]])
    shift = stamped - begins  # constant along an undisturbed track
    runs: list[tuple[int, int, int]] = []  # (shift, begin, end in decoded)
    for i in range(len(shift)):
        if not runs or abs(shift[i] - runs[-1][0]) > _MAX_DRIFT_S * sample_rate_hz:
            runs.append((int(shift[i]), int(begins[i]), int(ends[i])))
        else:
            runs[-1] = (*runs[-1][:2], int(ends[i]))
    limit = round(MAX_SECONDS * sample_rate_hz)
    total = min(limit, max((end + moved for moved, _, end in runs), default=0))
    samples = np.zeros(max(total, 0), np.float32)
    for moved, begin, end in runs:
        first, last = max(begin + moved, 0), min(end + moved, len(samples))
        if first < last:
            samples[first:last] = decoded[first - moved : last - moved]
    return samples
