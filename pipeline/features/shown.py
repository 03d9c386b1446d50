"""How much face and speech there is in a clip's windows: what the shards of the faces and spectrograms stages know."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cache_schemas.media import FACES, SPECTROGRAMS, read_windows
from cache_schemas.shards import read_rows
from pipeline.features.windows import WindowSource, window_sources
from pipeline.params import Params
from pipeline.sound.stage import from_pcm
from pipeline.workspace import Workspace

_HOP_S = 0.010


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
                "face_share": _face_shares(windows) / planned[clip_id],
                "speech_s": _speech_s(windows, params) if windows[0].info["has_audio"] else 0.0,
            }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["face_share", "speech_s"]).rename_axis("clip_id")


def _face_shares(windows: list[WindowSource]) -> float:
    """The sum over the windows of the share of their pictures in which the face was seen."""
    path, rows = windows[0].faces[0], [window.faces[1] for window in windows]
    seen = read_rows(path, FACES, rows, only=("probabilities",))["probabilities"] > 0
    return float(seen.mean(axis=1).sum())


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


def seconds_heard(
    waves: NDArray[np.int16],
    starts_s: Iterable[float],
    *,
    available_s: float,
    sample_rate_hz: int,
    silence_db: float,
) -> float:
    """Seconds that are less than `silence_db` below the loudest 10 ms of all; those in two windows count once.

    waves: (windows, samples); of each the first `available_s` are the clip's, what follows repeats them.
    """
    hop = round(_HOP_S * sample_rate_hz)
    hops = max(1, min(waves.shape[1], round(available_s * sample_rate_hz)) // hop)
    samples = from_pcm(waves[:, : hops * hop]).astype(np.float64)
    power = (
        np.square(samples).reshape(len(waves), -1, hop if samples.shape[1] >= hop else samples.shape[1]).mean(axis=2)
    )
    if not power.any():
        return 0.0
    heard = power >= power.max() * 10 ** (-silence_db / 10)
    first = np.round(np.asarray(list(starts_s)) / _HOP_S).astype(int)
    return float(len(np.unique((first[:, None] + np.arange(power.shape[1]))[heard])) * _HOP_S)
