"""How much face and speech there is in a clip's windows: what the shards of the faces and spectrograms stages know."""

from __future__ import annotations

from itertools import groupby

import pandas as pd

from cache_schemas.media import FACES, SPECTROGRAMS, read_windows
from cache_schemas.shards import read_rows
from pipeline.features.amounts import face_windows, seconds_heard
from pipeline.features.windows import WindowSource, window_sources
from pipeline.params import Params
from pipeline.workspace import Workspace


def shown_and_heard(workspace: Workspace, params: Params) -> pd.DataFrame:
    """By clip_id: face_share and speech_s, as `pipeline.statistics.limits` has them.

    A clip whose shards are not at hand has no row: a cache can be used without them.
    """
    rows = {}
    if workspace.windows.exists() and workspace.manifest.exists():
        planned = {clip_id: len(windows.starts_s) for clip_id, windows in read_windows(workspace.windows).items()}
        sources = window_sources(workspace, params)
        for clip_id, of in groupby(sources, key=lambda source: source.clip.clip_id):
            windows = list(of)
            rows[clip_id] = {
                "face_share": _face_windows(windows) / planned[clip_id],
                "speech_s": _speech_s(windows, params) if windows[0].info["has_audio"] else 0.0,
            }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["face_share", "speech_s"]).rename_axis("clip_id")


def _face_windows(windows: list[WindowSource]) -> float:
    path, rows = windows[0].faces[0], [window.faces[1] for window in windows]
    return face_windows(read_rows(path, FACES, rows, only=("probabilities",))["probabilities"])


def _speech_s(windows: list[WindowSource], params: Params) -> float:
    path, rows = windows[0].spectrogram[0], [window.spectrogram[1] for window in windows]
    waves = read_rows(path, SPECTROGRAMS, rows, only=("waveform",))["waveform"]
    return seconds_heard(
        waves,
        [window.start_s for window in windows],
        available_s=windows[0].info["available_s"],
        sample_rate_hz=params.spectrograms.sample_rate_hz,
        silence_db=params.windows.silence_db,
    )
