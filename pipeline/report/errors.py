"""The worst errors of the fusion network, and what it saw and heard of them: faces are people's and may be left out."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from cache_schemas.media import FACES, SPECTROGRAMS
from cache_schemas.shards import ClipEntry, ShardError, ShardSchema, read_rows, shard_entries
from pipeline.statistics.systems import FUSION
from pipeline.workspace import Workspace

MOST = 8
"""Clips with pictures: each is some 30 kB of the page."""
_FACE_PX, _STRIP_FACES = 96, 8
_SOUND_PX = (_FACE_PX * _STRIP_FACES, 96)
_JPEG_QUALITY = 75


def worst_errors(scores: pd.DataFrame, clips: pd.DataFrame, threshold: float | None) -> list[dict[str, Any]]:
    """At most MOST test clips on the wrong side of the threshold, the furthest first.

    scores, clips: as evaluate writes them. start_s: of the window whose own score is the most wrong.
    """
    if threshold is None:
        return []
    mine = scores[(scores["system"] == FUSION) & (scores["split"] == "test")]
    windows = mine.groupby(["clip_id", "start_s"], sort=True)["score"].mean().reset_index()
    known = clips.set_index("clip_id")
    found = []
    for clip_id, own in windows.groupby("clip_id", sort=True):
        clip = known.loc[str(clip_id)]
        fake, score = bool(clip["label"]), float(own["score"].mean())
        if (score >= threshold) != fake:
            wrong = own.sort_values("score", kind="stable").iloc[0 if fake else -1]
            row: dict[str, Any] = {name: str(clip[name]) for name in ("path", "category", "method", "subject_id")}
            row |= {"clip_id": str(clip_id), "label": int(fake), "score": score, "start_s": float(wrong["start_s"])}
            found.append(row)
    return sorted(found, key=lambda row: (-abs(row["score"] - row["label"]), row["clip_id"]))[:MOST]


def add_pictures(errors: list[dict[str, Any]], workspace: Workspace) -> str:
    """The word shown where the shards hold any of them, else why there are none; adds strip and sound to each."""
    faces, sounds = _shards(workspace.faces, FACES), _shards(workspace.spectrograms, SPECTROGRAMS)
    for row in errors:
        crops = _window(faces, FACES, row, "crops")
        sound = _window(sounds, SPECTROGRAMS, row, "spectrogram")
        row["strip"], row["strip_size"] = ("", (0, 0)) if crops is None else _jpeg(_strip(crops))
        row["sound"], row["sound_size"] = ("", (0, 0)) if sound is None else _jpeg(_bright(sound))
    if any(row["strip"] or row["sound"] for row in errors):
        return "shown"
    return "No shard of faces or spectrograms holds these clips: their pictures cannot be shown."


def _shards(folder: Path, schema: ShardSchema) -> dict[str, ClipEntry]:
    """{clip_id: where it lies}: of the shards of any parameters the newest that holds the clip well."""
    paths = sorted(folder.glob("*.h5"), key=lambda path: (path.stat().st_mtime, path.name))
    entries = (entry for path in paths for entry in shard_entries(path, schema, None))
    return {entry.clip_id: entry for entry in entries if not entry.reason}


def _window(entries: dict[str, ClipEntry], schema: ShardSchema, row: dict[str, Any], array: str) -> NDArray[Any] | None:
    """The array of the row's window; None where no shard holds it, or its file is damaged."""
    entry = entries.get(row["clip_id"])
    if entry is None:
        return None
    start = next((start for start in entry.starts_s if abs(start - row["start_s"]) < 1e-3), None)
    try:
        return None if start is None else read_rows(entry.path, schema, entry.rows([start]), only={array})[array][0]
    except ShardError:
        return None


def _strip(crops: NDArray[np.uint8]) -> Image.Image:
    """crops: (frames, H, W, 3) RGB; at most _STRIP_FACES of them side by side, in order of time."""
    chosen = np.linspace(0, len(crops) - 1, min(len(crops), _STRIP_FACES)).round().astype(int)
    strip = Image.new("RGB", (_FACE_PX * len(chosen), _FACE_PX))
    for place, number in enumerate(chosen):
        strip.paste(Image.fromarray(crops[number]).resize((_FACE_PX, _FACE_PX)), (place * _FACE_PX, 0))
    return strip


def _bright(spectrogram: NDArray[np.float32]) -> Image.Image:
    """spectrogram: (bands, hops) ln power; low bands at the bottom, the loudest brightest."""
    low, high = np.percentile(spectrogram, [1, 99.8])
    level = ((spectrogram - low) / max(float(high - low), 1e-6)).clip(0, 1)
    return Image.fromarray(colormaps["magma"](level[::-1], bytes=True)[..., :3]).resize(_SOUND_PX)


def _jpeg(image: Image.Image) -> tuple[str, tuple[int, int]]:
    """(the picture as a data URL, its size in px)"""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode(), image.size
