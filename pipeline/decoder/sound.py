"""The samples of a sound track, mono, at the track's own rate."""

from __future__ import annotations

import contextlib
import math
from array import array
from typing import Any, BinaryIO, cast

import av
import av.filter
from av.audio.frame import AudioFrame
from av.filter import Graph

from pipeline.decoder.container import Listing, NoSoundError, describe, find_tracks, open_file
from pipeline.decoder.messages import Block

# Channels are mixed with weights that sum to 1, so that nothing clips.
_MIX = "out_chlayout=mono:out_sample_fmt=flt:rematrix_maxval=1"
_MONO = {"flt", "fltp"}


def read_sound(request: dict[str, Any], fd: int, samples_fd: int) -> tuple[dict[str, Any], dict[str, Block]]:
    """Writes float32 samples to `samples_fd`; returns the headers, the packets' rows and, a piece each, when it
    starts (s, NaN where it does not say), its samples and their rate (Hz)."""
    limits = request["limits"]
    with open_file(fd, limits) as container, open(samples_fd, "wb", buffering=1 << 18, closefd=False) as file:
        tracks = find_tracks(container, limits)
        if tracks[1] is None:
            raise NoSoundError("no sound track")
        listing = Listing(container, tracks, limits["max_s"])
        pieces = _Pieces(file, float(tracks[1].time_base or 0))
        for packet in listing.packets():
            if packet.stream_index == tracks[1].index:
                with contextlib.suppress(av.FFmpegError):  # a damaged packet is a hole
                    for frame in cast(list[AudioFrame], packet.decode()):
                        pieces.add(frame)
        columns: dict[str, array[Any]] = {
            "packets": listing.rows,
            "starts_s": pieces.starts_s,
            "counts": pieces.counts,
            "rates_hz": pieces.rates_hz,
        }
        return describe(container, tracks), {name: column.tobytes() for name, column in columns.items()}


class _Pieces:
    def __init__(self, file: BinaryIO, tick_s: float) -> None:
        self._file, self._tick_s = file, tick_s
        self._mixed: tuple[tuple[Any, ...], Graph] | None = None
        self.starts_s, self.counts, self.rates_hz = array("d"), array("q"), array("q")

    def add(self, frame: AudioFrame) -> None:
        if frame.samples == 0 or frame.sample_rate <= 0:
            return
        time = math.nan if frame.pts is None else frame.pts * self._tick_s
        mono = frame if frame.layout.nb_channels == 1 and frame.format.name in _MONO else self._mix(frame)
        self._file.write(memoryview(mono.planes[0])[: 4 * mono.samples])
        self.starts_s.append(time)
        self.counts.append(mono.samples)
        self.rates_hz.append(frame.sample_rate)

    def _mix(self, frame: AudioFrame) -> AudioFrame:
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._mixed is None or self._mixed[0] != kind:
            graph = Graph()
            source = graph.add_abuffer(sample_rate=frame.sample_rate, format=frame.format, layout=frame.layout)
            mixer, sink = graph.add("aresample", _MIX), graph.add("abuffersink")
            source.link_to(mixer)
            mixer.link_to(sink)
            graph.configure()
            self._mixed = kind, graph
        graph = self._mixed[1]
        graph.push(frame)
        return cast(AudioFrame, graph.pull())
