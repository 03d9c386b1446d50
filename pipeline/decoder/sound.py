"""The samples of a sound track: mono, at the rate that is asked for, each as far from the first as the stamps say."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import av
import av.filter
from av.audio.fifo import AudioFifo
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.filter import Graph
from av.packet import Packet

from pipeline.decoder.container import (
    UNDECODED,
    NoSoundError,
    describe,
    describe_sound,
    find_sound,
    find_tracks,
    open_file,
    read_packets,
    why_no_sound,
)
from pipeline.decoder.first import FirstPicture
from pipeline.decoder.messages import Block

_LOWEST_HZ, _HIGHEST_HZ = 4_000, 384_000
_MAX_DRIFT_S = 0.010
"""Stamps are rounded (Matroska: to 1 ms). Only where they are off by more than this is sound missing or doubled."""
# Channels are mixed with weights that sum to 1, so that nothing clips.
_MIX = "out_chlayout=mono:out_sample_fmt=flt:rematrix_maxval=1"
# Flat to 91 % of the lower rate's band, 108 dB down where it would alias, and late by nothing.
_RESAMPLE = "filter_type=kaiser:kaiser_beta=10:filter_size=160:cutoff=0.955:linear_interp=1:phase_shift=8"
_GATHERED = {"mono", "stereo"}
"""Layouts whose frames are put together first: what is done for each frame costs more than its samples. PyAV's fifo
copies a layout without what it points to, so none that points to anything."""
_GATHERED_SAMPLES = 1 << 14


def read_sound(request: dict[str, Any], fd: int, samples_fd: int) -> tuple[dict[str, Any], dict[str, Block]]:
    """Writes float32 samples of the first sound track at `sample_rate_hz` to `samples_fd`, holes as silence.

    Returns `start_s`, when the first is heard (None where no stamp says it), beside what `describe` tells and the
    picture's packets' rows. Where `alone`, no picture is looked for: only the track is described.
    """
    limits = request["limits"]
    with (
        open_file(fd, limits, **UNDECODED) as container,
        open(samples_fd, "wb", buffering=1 << 18, closefd=False) as file,
    ):
        tracks = None if request["alone"] else find_tracks(container, limits)
        track, rows = find_sound(container), array("q")
        if track is None:
            raise NoSoundError(why_no_sound(container))
        first = FirstPicture(tracks[0]) if tracks else None
        packets = read_packets(container, tracks, limits, rows) if tracks else _packets_of(container, track)
        sound = _Sound(file, track, rate_hz=request["sample_rate_hz"], max_s=limits["max_s"])
        try:
            for packet in packets:
                if packet.stream is track:  # the empty packets at the end have no index of their own
                    sound.decode(packet)
                elif first:
                    first.look(packet)
            sound.end()
        except MemoryError:
            raise
        except (av.FFmpegError, ValueError) as error:
            raise NoSoundError(f"the sound cannot be decoded: {error}") from error
        if tracks and first:
            header = describe(container, tracks, first, limits["max_pixels"])
        else:
            header = {"audio": describe_sound(track)}
        return header | {"start_s": sound.start_s}, {"packets": rows.tobytes()}


def _packets_of(container: InputContainer, track: AudioStream) -> Iterator[Packet[Any]]:
    with contextlib.suppress(av.FFmpegError):  # what came before is what there is of a damaged file
        yield from container.demux(track)


class _Sound:
    """Puts decoded frames where they are heard, holes between them; what comes later for the same time counts."""

    def __init__(self, file: BinaryIO, track: AudioStream, *, rate_hz: int, max_s: float) -> None:
        self._file, self._tick_s = file, float(track.time_base or 0)
        self._rate_hz, self._max_s = rate_hz, max_s
        self._run: _Run | None = None
        self.start_s: float | None = None
        """When the first sample is heard."""

    def decode(self, packet: Packet[Any]) -> None:
        """Adds what is in the packet."""
        if packet.has_sidedata("encryption_info"):
            raise NoSoundError("the sound is encrypted")
        try:
            frames = cast(list[AudioFrame], packet.decode())
        except MemoryError:
            raise
        except av.FFmpegError:
            return  # a damaged packet is a hole
        for frame in frames:
            if frame.samples:
                self._add(frame)

    def end(self) -> None:
        """Writes what is left."""
        if self._run:
            self._run.end()

    def _add(self, frame: AudioFrame) -> None:
        rate = frame.sample_rate
        if not _LOWEST_HZ <= rate <= _HIGHEST_HZ:
            raise NoSoundError(f"the sound's rate is {rate} Hz: {_LOWEST_HZ} to {_HIGHEST_HZ} are accepted")
        begin_s = end_s = self._run.end_s if self._run else 0.0
        if frame.pts is not None:
            stamp_s = frame.pts * self._tick_s
            if self.start_s is None:
                self.start_s = stamp_s - end_s
            if abs(stamp_s - self.start_s - end_s) > _MAX_DRIFT_S:
                begin_s = stamp_s - self.start_s
        if not -frame.samples / rate < begin_s < self._max_s:
            return
        kind = (frame.format.name, frame.layout.name, rate)
        if self._run is None or kind != self._run.kind or begin_s != end_s:
            self.end()
            self._run = _Run(self._file, kind, begin_s=max(begin_s, 0.0), rate_hz=self._rate_hz)
        first, last = (round(max(seconds, 0.0) * rate) for seconds in (-begin_s, self._max_s - begin_s))
        self._run.add(frame, slice(first, last))


class _Run:
    """Frames of one kind (format, layout, rate), one after the other: mixed, resampled and written."""

    def __init__(self, file: BinaryIO, kind: tuple[str, str, int], *, begin_s: float, rate_hz: int) -> None:
        layout, rate = kind[1:]
        self.kind = kind
        self._file, self._begin_s, self._samples = file, begin_s, 0
        self._gathered = AudioFifo() if layout in _GATHERED else None
        self._mixer: Graph | None = None
        self._resampler: Graph | None = None
        if rate != rate_hz:
            self._resampler = _graph(rate, "flt", "mono", ("aresample", f"osr={rate_hz}:{_RESAMPLE}"))
        file.seek(4 * round(begin_s * rate_hz))

    @property
    def end_s(self) -> float:
        """Where it ends so far, from the first sample of all."""
        return self._begin_s + self._samples / self.kind[2]

    def add(self, frame: AudioFrame, part: slice) -> None:
        """Adds these samples of the frame."""
        samples = len(range(frame.samples)[part])
        self._samples += samples
        if self._gathered is None or samples < frame.samples:
            self._flush()
            self._resample(self._mix(frame)[4 * part.start : 4 * part.stop])
            return
        frame.pts = None  # the fifo would insist on stamps without a hole
        self._gathered.write(frame)
        if self._gathered.samples >= _GATHERED_SAMPLES:
            self._flush()

    def end(self) -> None:
        """Writes what is left; nothing can be added afterwards."""
        self._flush()
        if self._resampler:
            self._resampler.push(None)
            self._write_resampled(self._resampler)

    def _flush(self) -> None:
        if self._gathered is not None and self._gathered.samples:
            self._resample(self._mix(cast(AudioFrame, self._gathered.read())))

    def _mix(self, frame: AudioFrame) -> memoryview:
        self._mixer = self._mixer or _mixer(frame)
        frame.pts = None
        self._mixer.push(frame)
        mono = cast(AudioFrame, self._mixer.pull())
        return memoryview(mono.planes[0])[: 4 * mono.samples]

    def _resample(self, mono: memoryview) -> None:
        if self._resampler is None or not mono:
            self._file.write(mono)
            return
        frame = AudioFrame("flt", "mono", len(mono) // 4, align=1)
        frame.sample_rate = self.kind[2]
        frame.planes[0].update(cast(bytes, mono))  # any buffer will do
        self._resampler.push(frame)
        self._write_resampled(self._resampler)

    def _write_resampled(self, resampler: Graph) -> None:
        with contextlib.suppress(BlockingIOError, EOFError):
            while True:
                frame = cast(AudioFrame, resampler.pull())
                self._file.write(memoryview(frame.planes[0])[: 4 * frame.samples])


def _mixer(frame: AudioFrame) -> Graph:
    """Frames of this kind -> mono, float32."""
    filters = [("aresample", _MIX)]
    if frame.layout.name.endswith(" channels"):  # nobody says which is which; for many, aresample has no guess
        every = "+".join(f"c{channel}" for channel in range(frame.layout.nb_channels))
        filters.insert(0, ("pan", f"mono|c0<{every}"))
    return _graph(frame.sample_rate, frame.format.name, frame.layout, *filters)


def _graph(rate_hz: int, sample_format: str, layout: Any, *filters: tuple[str, str]) -> Graph:
    graph = Graph()
    graph.threads = 1
    source = graph.add_abuffer(sample_rate=rate_hz, format=sample_format, layout=layout)
    graph.link_nodes(source, *(graph.add(name, options) for name, options in filters), graph.add("abuffersink"))
    graph.configure()
    return graph
