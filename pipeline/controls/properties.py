"""What knows nothing of faces and voices: how far do the container's and the sound's properties alone come?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from pipeline.statistics.metrics import auc
from pipeline.statistics.shortcuts import SHORTCUTS
from pipeline.statistics.systems import BEST_PROPERTY, PROPERTIES

CONTROLS = (PROPERTIES, BEST_PROPERTY)
MEASURED = ("bit_depth", "pixel_aspect", "interlaced", "sample_rate_hz", "sound_s")
"""Numbers that only `bmnas manifest --check` measures."""
NAMED = ("container", "video_codec", "audio_codec", "channels", "transfer")
"""The same of names."""
COLUMNS = (*SHORTCUTS, "has_audio", "bit_rate_kbps", "pixels", "aspect", "file_type", *MEASURED, *NAMED)
"""All properties; those that are not measured follow from the cache's index."""
_FEWEST, _MOST_NAMES = 5, 100
"""Names of fewer clips, or beyond so many of a property, count as one."""


def properties_of(clips: pd.DataFrame) -> pd.DataFrame:
    """(clips, properties) float, or categories where a property is a name; columns as in COLUMNS.

    clips: one row a clip with SHORTCUTS' columns, has_audio, path, and those of MEASURED and NAMED that are known.
    """
    known = clips.assign(
        bit_rate_kbps=clips["file_bytes"] * 0.008 / clips["duration_s"].where(clips["duration_s"] > 0),
        pixels=clips["width_px"] * clips["height_px"],
        aspect=clips["width_px"] / clips["height_px"].where(clips["height_px"] > 0),
        file_type=[PurePosixPath(path).suffix.lower() for path in clips["path"]],
    )
    names = {*NAMED, "file_type"}
    return pd.DataFrame(
        {
            name: _category(known[name]) if name in names else known[name].astype(float)
            for name in COLUMNS
            if name in known
        }
    )


def property_scores(clips: pd.DataFrame, split: Sequence[str]) -> pd.DataFrame:
    """clip_id, method, seed, score of every clip that is part of the split, by each of CONTROLS.

    clips: as for `properties_of`, by clip_id, with their label; split: (clips,). A small boosted forest learns from the
    train clips; what is not known is a value, too.
    """
    properties = properties_of(clips)
    labels, sides = clips["label"].to_numpy(int), np.array(split, object)
    scores: Mapping[str, NDArray[np.float64]] = {
        PROPERTIES: _learnt(properties, labels, sides),
        BEST_PROPERTY: max(
            (_learnt(properties[[name]], labels, sides) for name in properties),
            key=lambda told: auc(labels[sides == "val"], told[sides == "val"]),
        ),
    }
    used = sides != ""
    parts = [
        pd.DataFrame({"clip_id": clips.index[used], "method": method, "seed": 0, "score": told[used]})
        for method, told in scores.items()
    ]
    return pd.concat(parts, ignore_index=True)


def _category(names: pd.Series[Any]) -> pd.Series[Any]:
    counts = names.value_counts()
    common = names.isin(counts[counts >= _FEWEST].index[:_MOST_NAMES])
    return names.where(common, "another").where(names.notna(), "not known").astype("category")


def _learnt(properties: pd.DataFrame, labels: NDArray[np.int64], sides: NDArray[np.object_]) -> NDArray[np.float64]:
    """P(fake) of every clip, (N,)."""
    forest = HistGradientBoostingClassifier(
        max_iter=50, max_depth=3, min_samples_leaf=_FEWEST, random_state=0, categorical_features="from_dtype"
    )
    train = sides == "train"
    told: NDArray[np.float64] = forest.fit(properties[train], labels[train]).predict_proba(properties)[:, 1]
    return told
