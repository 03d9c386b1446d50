"""The one door to media files. They come from strangers: ffmpeg sees one local file, no network, and has limits."""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ffmpeg
import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

MAX_SECONDS = 4 * 3600.0
"""Longer clips are read to here."""
MAX_PIXELS = 8192 * 8192
MAX_FRAME_HEIGHT_PX = 1080
"""Taller pictures are scaled down to it: no crop needs more, and memory stays bounded."""
WALL_SECONDS = 600.0
"""A process that runs longer is killed."""

# Containers that hold their streams themselves. Playlists (hls, concat, dash) open other files and are left out.
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,h264,hevc,m4v,flv,asf,ogg,mxf,nut,wav,mp3,aac,flac"
)


class MediaError(Exception):
    """A file cannot be used; the message says why in words for the quarantine list."""


class NoAudioError(MediaError):
    """The file has a picture but no sound track."""


@dataclass(frozen=True)
class VideoInfo:
    """The picture's timeline as its packets tell it (headers may lie)."""

    duration_s: float
    fps: float
    width_px: int
    height_px: int
    has_audio: bool


@functools.cache
def ffmpeg_exe() -> str:
    """The system's ffmpeg if there is one, else the static binary that imageio-ffmpeg ships."""
    return shutil.which("ffmpeg") or str(imageio_ffmpeg.get_ffmpeg_exe())


def inside(root: Path, relative: str) -> Path:
    """The file `relative` under `root`; raises MediaError when the path (or a link in it) leads outside."""
    base = root.resolve()
    path = (base / relative).resolve()
    if not path.is_relative_to(base):
        raise MediaError("the path leads outside the data root")
    return path


def check_file(path: Path) -> None:
    """Raises MediaError when there is no readable, non-empty, regular file at `path`."""
    if path.is_dir():
        raise MediaError("a directory, not a file")
    if not path.exists():
        raise MediaError("the file does not exist")
    if not path.is_file():
        raise MediaError("a device or a pipe, not a file")
    if path.stat().st_size == 0:
        raise MediaError("the file is empty (0 bytes)")
    if not os.access(path, os.R_OK):
        raise MediaError("the file cannot be read (permission denied)")


def probe(path: Path) -> VideoInfo:
    """The picture's timeline, from all packets' time stamps (nothing is decoded); raises MediaError."""
    stream = _input(path).output("pipe:", map="0:v:0", c="copy", f="framecrc")
    out, log = _run(stream, path, missing_stream="no picture: the file has no video stream")
    head = re.search(r"#tb 0: (\d+)/(\d+)", out_text := out.decode("ascii", "replace"))
    # "0, dts, pts, duration, ...". MPEG streams give a pts to some packets only; the others have their dts.
    rows = re.findall(r"^0,\s*(-?\d+|NOPTS),\s*(-?\d+|NOPTS),\s*(\d+),", out_text, flags=re.MULTILINE)
    stamps = [(next((int(v) for v in (pts, dts) if v not in _NO_STAMP), None), int(size)) for dts, pts, size in rows]
    packets = np.array([stamp for stamp in stamps if stamp[0] is not None], dtype=np.int64).reshape(-1, 2)
    size = re.search(r"#dimensions 0: (\d+)x(\d+)", out_text)
    if head is None or size is None or len(packets) == 0:
        raise MediaError("no picture: the video stream is empty")
    width, height = int(size[1]), int(size[2])
    if not 0 < width * height <= MAX_PIXELS:
        raise MediaError(f"the picture is {width}x{height}: more than {MAX_PIXELS} pixels")
    tick = int(head[1]) / int(head[2])
    pts = np.sort(packets[:, 0])
    step = float(np.median(np.diff(pts))) if len(pts) > 1 else float(packets[0, 1])
    end = float(pts[-1]) + max(step, 0.0)
    return VideoInfo(
        duration_s=max(0.0, end * tick),
        fps=1 / (step * tick) if step > 0 else 0.0,
        width_px=width,
        height_px=height,
        has_audio="Audio:" in log,
    )


def read_audio(path: Path, *, sample_rate_hz: int) -> NDArray[np.float32]:
    """(samples,) float32: the first sound track, mono, on the picture's clock: silence where it starts later.

    Raises NoAudioError when there is no track, MediaError when it cannot be decoded.
    """
    stream = _input(path).output(
        "pipe:",
        map="0:a:0",
        # first_pts=0 with async fills the gap between the file's start and the first sample, and any later gap.
        af="aresample=async=1:first_pts=0",
        ac=1,
        ar=sample_rate_hz,
        f="f32le",
    )
    out, _ = _run(stream, path, missing_stream="")
    samples: NDArray[np.float32] = np.frombuffer(out[: len(out) // 4 * 4], dtype="<f4").astype(np.float32)
    if len(samples) == 0:
        raise MediaError("the sound track is empty or cannot be decoded")
    if not np.isfinite(samples).all():
        raise MediaError("the sound track decodes to values that are not finite")
    return samples


def read_frames(path: Path, times_s: Sequence[float]) -> NDArray[np.uint8]:
    """(len(times_s), H, W, 3) uint8 RGB: the picture that is nearest to each time.

    Taller pictures than MAX_FRAME_HEIGHT_PX come scaled down. Raises MediaError when nothing can be decoded.
    """
    wanted = np.asarray(times_s, dtype=float)
    # One frame for each wanted time: the first that comes after it. 20 ms earlier makes that the nearest at 25 fps.
    terms = [
        f"gte(t,{t:.4f})*(lt(prev_pts*TB,{t:.4f})+isnan(prev_pts))" for t in np.unique(np.maximum(wanted - 0.02, 0))
    ]
    stream = (
        _input(path, seconds=float(wanted.max()) + 1)
        .filter("select", "+".join(terms))
        .filter("scale", -2, f"min({MAX_FRAME_HEIGHT_PX},ih)")
        .filter("showinfo", checksum=0)
        .output(
            "pipe:", map_metadata=-1, fps_mode="passthrough", f="rawvideo", pix_fmt="rgb24", an=None, sn=None, dn=None
        )
    )
    out, log = _run(stream, path, missing_stream="no picture: the file has no video stream")
    shown = re.findall(r"pts_time:\s*([-\d.e]+).*? s:(\d+)x(\d+)", log)
    sizes = {(int(w), int(h)) for _, w, h in shown}
    if not shown:
        raise MediaError("no picture could be decoded")
    if len(sizes) > 1:
        raise MediaError(f"the picture changes its size: {sorted(sizes)}")
    width, height = sizes.pop()
    frames = np.frombuffer(out, np.uint8)
    n_frames = min(len(shown), len(frames) // (width * height * 3))
    if n_frames == 0:
        raise MediaError("no picture could be decoded")
    frames = frames[: n_frames * width * height * 3].reshape(n_frames, height, width, 3)
    stamps = np.array([float(stamp) for stamp, _, _ in shown[:n_frames]])
    nearest = np.abs(stamps[None, :] - wanted[:, None]).argmin(axis=1)
    chosen: NDArray[np.uint8] = frames[nearest]
    return chosen


_NO_STAMP = ("NOPTS", str(-(2**63)))


def _input(path: Path, *, seconds: float = MAX_SECONDS) -> Any:
    # "file:" keeps ffmpeg from reading a protocol or an option into a file's name.
    return ffmpeg.input(
        f"file:{path}",
        protocol_whitelist="file,pipe",
        format_whitelist=_CONTAINERS,
        max_pixels=MAX_PIXELS,
        t=min(seconds, MAX_SECONDS),
        threads=1,
    )


def _run(stream: Any, path: Path, *, missing_stream: str) -> tuple[bytes, str]:
    check_file(path)
    command = ffmpeg.compile(stream, cmd=[ffmpeg_exe(), "-nostdin", "-hide_banner"])
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        # Output goes to files, not pipes: nothing to dead-lock on, and the whole process group can be killed.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True)  # noqa: S603
        try:
            code = process.wait(timeout=WALL_SECONDS)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise MediaError(f"decoding took longer than {WALL_SECONDS:g} s") from None
            raise
        out.seek(0)
        err.seek(0)
        data, log = out.read(), err.read().decode("utf-8", "replace")
    if code != 0 and not data:
        raise _explain(log, missing_stream)
    return data, log


_REASONS = (
    ("moov atom not found", "cut short, or not a media file: it has no index (moov atom not found)"),
    ("Invalid data found", "not a media file, or corrupt beyond reading"),
    ("not allowed by the format whitelist", "not a container that is accepted (playlists never are)"),
    ("not on whitelist", "refers to another file or address, which is refused"),
    ("does not contain any stream", "the file holds no stream"),
)


def _explain(log: str, missing_stream: str) -> MediaError:
    if "matches no streams" in log or "Stream specifier" in log:
        return MediaError(missing_stream) if missing_stream else NoAudioError("no sound track")
    for sign, reason in _REASONS:
        if sign in log:
            return MediaError(reason)
    lines = [line for line in log.splitlines() if line.strip()]
    return MediaError(f"ffmpeg could not read it: {lines[-1][:200] if lines else 'no message'}")
