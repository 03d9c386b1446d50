"""The samples of a sound track, mono, at the track's own rate."""

from __future__ import annotations

import math
from array import array
from typing import Any, BinaryIO, cast

import av
import av.filter
from av.audio.fifo import AudioFifo
from av.audio.frame import AudioFrame
from av.filter import Graph

from pipeline.decoder.container import UNDECODED, NoSoundError, describe, find_tracks, open_file, read_packets
from pipeline.decoder.first import FirstPicture
from pipeline.decoder.messages import Block

# Channels are mixed with weights that sum to 1, so that nothing clips.
_MIX = "out_chlayout=mono:out_sample_fmt=flt:rematrix_maxval=1"
_MONO = {"flt", "fltp"}
_GATHERED = {"mono", "stereo"}
"""Layouts whose frames are put together first: what is done for each frame costs more than its samples. PyAV's fifo
copies a layout without what it points to, so none that points to anything."""
_GATHERED_SAMPLES = 1 << 14


def read_sound(request: dict[str, Any], fd: int, samples_fd: int) -> tuple[dict[str, Any], dict[str, Block]]:
    """Writes float32 samples to `samples_fd`; returns the headers, the packets' rows and, a piece each, when it
    starts (s, NaN where it does not say), its samples and their rate (Hz)."""
    limits = request["limits"]
    with (
        open_file(fd, limits, **UNDECODED) as container,
        open(samples_fd, "wb", buffering=1 << 18, closefd=False) as file,
    ):
        tracks = find_tracks(container, limits)
        if tracks[1] is None:
            raise NoSoundError("no sound track")
        rows, first, pieces = array("q"), FirstPicture(tracks[0]), _Pieces(file, float(tracks[1].time_base or 0))
        for packet in read_packets(container, tracks, limits["max_s"], rows):
            if packet.stream is tracks[1]:
                try:
                    for frame in cast(list[AudioFrame], packet.decode()):
                        pieces.add(frame)
                except av.FFmpegError:
                    continue  # a damaged packet is a hole
            else:
                first.look(packet)
        pieces.flush()
        columns: dict[str, array[Any]] = {
            "packets": rows,
            "starts_s": pieces.starts_s,
            "counts": pieces.counts,
            "rates_hz": pieces.rates_hz,
        }
        header = describe(container, tracks, first, limits["max_pixels"])
        return header, {name: column.tobytes() for name, column in columns.items()}


class _Pieces:
    def __init__(self, file: BinaryIO, tick_s: float) -> None:
        self._file, self._tick_s = file, tick_s
        self._kind: tuple[str, str, int] | None = None
        self._gathered: AudioFifo | None = None
        self._graph: Graph | None = None
        self.starts_s, self.counts, self.rates_hz = array("d"), array("q"), array("q")

    def add(self, frame: AudioFrame) -> None:
        samples, rate_hz = frame.samples, frame.sample_rate
        if samples == 0 or rate_hz <= 0:
            return
        kind = (frame.format.name, frame.layout.name, rate_hz)
        if kind != self._kind:
            self.flush()
            self._kind, self._graph = kind, None
            self._gathered = AudioFifo() if kind[1] in _GATHERED else None
        self.starts_s.append(math.nan if frame.pts is None else frame.pts * self._tick_s)
        self.counts.append(samples)
        self.rates_hz.append(rate_hz)
        if self._gathered is None:
            self._write(frame)
            return
        frame.pts = None  # the fifo would insist on stamps without a hole
        self._gathered.write(frame)
        if self._gathered.samples >= _GATHERED_SAMPLES:
            self.flush()

    def flush(self) -> None:
        """Writes what is gathered."""
        if self._gathered is not None and self._gathered.samples:
            self._write(cast(AudioFrame, self._gathered.read()))

    def _write(self, frame: AudioFrame) -> None:
        mono = frame if frame.layout.nb_channels == 1 and frame.format.name in _MONO else self._mix(frame)
        self._file.write(memoryview(mono.planes[0])[: 4 * mono.samples])

    def _mix(self, frame: AudioFrame) -> AudioFrame:
        if self._graph is None:
            self._graph = Graph()
            source = self._graph.add_abuffer(sample_rate=frame.sample_rate, format=frame.format, layout=frame.layout)
            mixer, sink = self._graph.add("aresample", _MIX), self._graph.add("abuffersink")
            source.link_to(mixer)
            mixer.link_to(sink)
            self._graph.configure()
        self._graph.push(frame)
        return cast(AudioFrame, self._graph.pull())
