"""The windows that have crops and a spectrogram: where they lie, and each view of one as a backbone takes it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from cache_schemas.manifest import Clip, read_manifest
from cache_schemas.media import FACES, SPECTROGRAMS, read_windows
from cache_schemas.shards import ClipEntry, each_row, scan_shards
from pipeline.backbones import Input, Modality
from pipeline.faces.stage import face_key, windows_digest
from pipeline.features.forward import NEEDED, input_views
from pipeline.params import Params, SpectrogramParams
from pipeline.sound.stage import spectrogram_key
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class WindowSource:
    """One window that has both crops and a spectrogram, and where they lie."""

    clip: Clip
    window: int
    start_s: float
    faces: tuple[Path, int]
    spectrogram: tuple[Path, int]
    plan: str
    """Names the clip's windows: its face track, and with it this window's crops, depend on all of them."""
    info: dict[str, Any]

    @property
    def labels(self) -> tuple[int, int | None]:
        """(video label, audio label) of this window, which may be a real piece of a fake clip.

        Where there is nothing to hear, no sound is fake, whatever the data set calls the clip's.
        """
        video, audio = self.clip.labels_between(self.start_s, self.start_s + self.info["available_s"])
        return video, audio if self.info["has_audio"] else None


class StoredWindow(NamedTuple):
    """A window as a worker needs it: its row in a shard, and what its views are drawn by."""

    shard: Path
    row: int
    clip_id: str
    start_s: float


def window_sources(workspace: Workspace, params: Params) -> list[WindowSource]:
    """Every window that has both crops and a spectrogram, in manifest order."""
    clips = read_manifest(workspace.manifest)
    windows = read_windows(workspace.windows)
    heard = scan_shards(workspace.spectrograms, SPECTROGRAMS, spectrogram_key(params))
    seen = scan_shards(workspace.faces, FACES, face_key(params))
    sources = []
    for clip in clips:
        sound = heard.get((clip.clip_id, ""))
        picture = seen.get((clip.clip_id, windows_digest(windows[clip.clip_id]))) if clip.clip_id in windows else None
        if sound and picture and not sound.reason and not picture.reason:
            sources += _pair(clip, sound, picture)
    return sources


def _pair(clip: Clip, sound: ClipEntry, picture: ClipEntry) -> list[WindowSource]:
    """The windows that the faces stage kept, each with its spectrogram: paired by start, never by order."""
    return [
        WindowSource(
            clip,
            sound.starts_s.index(start),
            start,
            (picture.path, seen),
            (sound.path, heard),
            picture.plan,
            dict(sound.info),
        )
        for start, seen, heard in zip(picture.starts_s, picture.rows(), sound.rows(picture.starts_s), strict=True)
    ]


def stored_windows(sources: Sequence[WindowSource], modality: Modality) -> list[StoredWindow]:
    """Where the modality's windows lie, from the root on."""
    places = [(s, *(s.faces if modality == "visual" else s.spectrogram)) for s in sources]
    absolute = {path: path.resolve() for _, path, _ in places}
    return [StoredWindow(absolute[path], row, s.clip.clip_id, s.start_s) for s, path, row in places]


def window_inputs(
    source: WindowSource, takes: Input, views: Iterable[int], params: SpectrogramParams
) -> Iterator[NDArray[Any]]:
    """Yields each view of a window as a backbone takes it; what is stored of it is read once."""
    (window,) = stored_windows([source], "visual" if takes == "crops" else "audio")
    return stored_inputs([(window, view) for view in views], takes, params)


def stored_inputs(
    rows: Iterable[tuple[StoredWindow, int]], takes: Input, params: SpectrogramParams
) -> Iterator[NDArray[Any]]:
    """Yields what a backbone takes of each window and view.

    A shard is opened once for all windows that follow one another in it, a window read once for its views.
    """
    schema, names = FACES if takes == "crops" else SPECTROGRAMS, NEEDED[takes]
    for shard, of_shard in itertools.groupby(rows, key=lambda row: row[0].shard):
        windows = [
            (window, [view for _, view in of_window])
            for window, of_window in itertools.groupby(of_shard, key=lambda row: row[0])
        ]
        stored = each_row(shard, schema, [window.row for window, _ in windows], only=names)
        for arrays, (window, views) in zip(stored, windows, strict=True):
            yield from input_views(
                arrays, takes, clip_id=window.clip_id, start_s=window.start_s, views=views, params=params
            )
