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
    find_tracks,
    open_file,
    read_packets,
)
from pipeline.decoder.messages import Block

_LOWEST_HZ, _HIGHEST_HZ = 4_000, 384_000
_MAX_DRIFT_S = 0.010
"""Stamps are rounded (Matroska: to 1 ms). Only where they are off by more than this is sound missing or doubled."""
# Channels are mixed with weights that sum to 1, so that nothing clips.
_MIX = "out_chlayout=mono:out_sample_fmt=flt:rematrix_maxval=1"
# Flat to 91 % of the lower rate's band, 108 dB down where it would alias, and late by nothing.
_RESAMPLE = "filter_type=kaiser:kaiser_beta=10:filter_size=160:cutoff=0.955:linear_interp=1"
_GATHERED = {"mono", "stereo"}
"""Layouts whose frames are put together first: what is done for each frame costs more than its samples. PyAV's fifo
copies a layout without what it points to, so none that points to anything."""
_GATHERED_SAMPLES = 1 << 14
_SILENCE = memoryview(bytes(4 * _GATHERED_SAMPLES))


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
        header: dict[str, Any]
        rows = array("q")
        if request["alone"]:
            track = _first_sound(container)
            header, packets = {"audio": describe_sound(track)}, _packets_of(container, track)
        else:
            tracks = find_tracks(container, limits)
            track = _first_sound(container)
            header, packets = describe(container, tracks), read_packets(container, tracks, limits["max_s"], rows)
        sound = _Sound(file, track, rate_hz=request["sample_rate_hz"], max_s=limits["max_s"])
        try:
            for packet in packets:
                if packet.stream_index == track.index:
                    sound.decode(packet)
            sound.end()
        except (av.FFmpegError, ValueError) as error:
            raise NoSoundError(f"the sound cannot be decoded: {error}") from error
        return header | {"start_s": sound.start_s}, {"packets": rows.tobytes()}


def _first_sound(container: InputContainer) -> AudioStream:
    if not container.streams.audio:
        raise NoSoundError("no sound track")
    track = container.streams.audio[0]
    if track.codec_context is None:  # PyAV's types do not know that it may be
        raise NoSoundError("the sound's codec is not known")
    return track


def _packets_of(container: InputContainer, track: AudioStream) -> Iterator[Packet[Any]]:
    with contextlib.suppress(av.FFmpegError):  # what came before is what there is of a damaged file
        yield from container.demux(track)


class _Sound:
    """Brings decoded frames to where they are heard: holes become silence, what comes twice is dropped."""

    def __init__(self, file: BinaryIO, track: AudioStream, *, rate_hz: int, max_s: float) -> None:
        self._file, self._tick_s = file, float(track.time_base or 0)
        self._rate_hz, self._max_s = rate_hz, max_s
        self._run: _Run | None = None
        self.start_s: float | None = None
        """When the first sample is heard."""

    def decode(self, packet: Packet[Any]) -> None:
        try:
            frames = cast(list[AudioFrame], packet.decode())
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
        end_s = self._run.end_s if self._run else 0.0
        off_s = 0.0
        if frame.pts is not None:
            stamp_s = frame.pts * self._tick_s
            if self.start_s is None:
                self.start_s = stamp_s - end_s
            off_s = stamp_s - self.start_s - end_s
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._run is None or kind != self._run.kind:
            self.end()
            self._run = _Run(self._file, kind, begin_s=end_s, rate_hz=self._rate_hz)
        left = round(max(0.0, self._max_s - end_s) * frame.sample_rate)
        off = round(off_s * frame.sample_rate) if abs(off_s) > _MAX_DRIFT_S else 0
        self._run.add_silence(min(max(off, 0), left))
        self._run.add(frame, slice(max(-off, 0), max(left - off, 0)))


class _Run:
    """Frames of one kind (format, layout, rate), one after the other: mixed, resampled and written."""

    def __init__(self, file: BinaryIO, kind: tuple[str, str, int], *, begin_s: float, rate_hz: int) -> None:
        layout, rate = kind[1:]
        if not _LOWEST_HZ <= rate <= _HIGHEST_HZ:
            raise NoSoundError(f"the sound's rate is {rate} Hz: {_LOWEST_HZ} to {_HIGHEST_HZ} are accepted")
        self.kind = kind
        self._file, self._begin_s, self._samples = file, begin_s, 0
        self._gathered = AudioFifo() if layout in _GATHERED else None
        self._mixer: Graph | None = None
        self._resampler = None if rate == rate_hz else _graph(rate, "flt", "mono", f"osr={rate_hz}:{_RESAMPLE}")
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

    def add_silence(self, samples: int) -> None:
        """Adds so many zeros."""
        if samples:
            self._flush()
        self._samples += samples
        for begin in range(0, samples, _GATHERED_SAMPLES):
            self._resample(_SILENCE[: 4 * (samples - begin)])

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
        self._mixer = self._mixer or _graph(frame.sample_rate, frame.format.name, frame.layout, _MIX)
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
        frame.planes[0].update(mono)
        self._resampler.push(frame)
        self._write_resampled(self._resampler)

    def _write_resampled(self, resampler: Graph) -> None:
        with contextlib.suppress(BlockingIOError, EOFError):
            while True:
                frame = cast(AudioFrame, resampler.pull())
                self._file.write(memoryview(frame.planes[0])[: 4 * frame.samples])


def _graph(rate_hz: int, sample_format: str, layout: Any, resampling: str) -> Graph:
    graph = Graph()
    source = graph.add_abuffer(sample_rate=rate_hz, format=sample_format, layout=layout)
    resampler, sink = graph.add("aresample", resampling), graph.add("abuffersink")
    source.link_to(resampler)
    resampler.link_to(sink)
    graph.configure()
    return graph
