"""Contact sheets: what the stages found in each clip, as a PNG to be looked at and an mp4 to be played.

PNG: a row is a window: the picture at its middle with the face's box and landmarks, and the crops; crops of frames in
which the face was not seen have a red frame. mp4: the crops of window after window, with the sound that goes with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rich.markup import escape

from cache_schemas.manifest import read_manifest
from cache_schemas.media import FACES, SPECTROGRAMS, read_windows
from cache_schemas.shards import read_rows, scan_shards
from pipeline import media
from pipeline.compute.progress import console, progress_bar
from pipeline.faces.stage import face_key
from pipeline.params import Params
from pipeline.shards.windows import frame_times
from pipeline.sound.stage import spectrogram_key
from pipeline.workspace import Workspace

_TILE_PX = 112
_RED, _GREEN = (230, 40, 40), (60, 220, 60)


def write_contact_sheets(folder: Path, workspace: Workspace, params: Params) -> int:
    """The number of sheets written to `folder`, CLIP_ID.png and .mp4 each: those of all clips that have crops.

    A clip that can no longer be read is named and left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    windows = read_windows(workspace.windows)
    clips = {clip.clip_id: clip for clip in read_manifest(workspace.manifest)}
    sounds = scan_shards(workspace.spectrograms, SPECTROGRAMS, spectrogram_key(params))
    entries = [
        entry
        for entry in scan_shards(workspace.faces, FACES, face_key(params)).values()
        if not entry.reason and entry.clip_id in clips and entry.clip_id in windows and (entry.clip_id, "") in sounds
    ]
    written = 0
    with progress_bar("contact sheets", total=len(entries), unit="clips") as advance:
        for entry in entries:
            times = frame_times(windows[entry.clip_id], frames=params.faces.frames, params=params.windows)
            kept = [windows[entry.clip_id].starts_s.index(start) for start in entry.starts_s]
            middles = times[kept, params.faces.frames // 2]
            advance(1)
            try:
                path = media.inside(Path(params.data.root), clips[entry.clip_id].file_name)
                pictures = media.read_frames(path, middles.tolist()).pixels
            except media.MediaError as error:
                console.print(f"contact sheets: {escape(clips[entry.clip_id].path)}: {escape(str(error))}")
                continue
            found = read_rows(entry.path, FACES, entry.rows())
            _sheet(found, pictures).save(folder / f"{entry.clip_id}.png")
            heard = sounds[entry.clip_id, ""]
            waves = read_rows(heard.path, SPECTROGRAMS, heard.rows(entry.starts_s), only=["waveform"])["waveform"]
            crops = found["crops"]
            media.write_clip(
                folder / f"{entry.clip_id}.mp4",
                crops.reshape(-1, *crops.shape[2:]),
                waves.reshape(-1),
                fps=crops.shape[1] / params.windows.window_s,
                sample_rate_hz=params.spectrograms.sample_rate_hz,
            )
            written += 1
    return written


def _sheet(found: Mapping[str, NDArray[Any]], pictures: NDArray[np.uint8]) -> Image.Image:
    """found: the rows of a clip; pictures: (windows, H, W, 3), of each window's frame number F // 2."""
    lines = []
    for w, picture in enumerate(pictures):
        middle = found["crops"].shape[1] // 2
        tiles = [_boxed(picture, found["boxes"][w, middle], found["landmarks"][w, middle])]
        for crop, probability in zip(found["crops"][w], found["probabilities"][w], strict=True):
            tile = Image.fromarray(crop).resize((_TILE_PX, _TILE_PX), Image.Resampling.BOX)
            if probability == 0:
                ImageDraw.Draw(tile).rectangle((0, 0, _TILE_PX - 1, _TILE_PX - 1), outline=_RED, width=4)
            tiles.append(tile)
        lines.append(np.concatenate([np.asarray(tile) for tile in tiles], axis=1))
    return Image.fromarray(np.concatenate(lines))


def _boxed(picture: NDArray[np.uint8], box: NDArray[np.float32], landmarks: NDArray[np.float32]) -> Image.Image:
    """The picture in two tiles' width and one's height, with black beside it."""
    image = Image.fromarray(picture)
    image.thumbnail((2 * _TILE_PX, _TILE_PX))
    scale = image.height / picture.shape[0]
    draw = ImageDraw.Draw(image)
    draw.rectangle([float(edge) * scale for edge in box], outline=_GREEN, width=2)
    for x, y in landmarks * scale:
        draw.rectangle((x - 1, y - 1, x + 1, y + 1), fill=_RED)
    tile = Image.new("RGB", (2 * _TILE_PX, _TILE_PX))
    tile.paste(image, ((tile.width - image.width) // 2, (tile.height - image.height) // 2))
    return tile
