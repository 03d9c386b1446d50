"""What knows nothing of faces and voices: how far do the container's and the sound's properties alone come?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from pipeline.statistics.metrics import auc
from pipeline.statistics.shortcuts import SHORTCUTS

TOGETHER, BEST_ALONE = "properties, all together", "property, the best on val"
CONTROLS = (TOGETHER, BEST_ALONE)


def property_scores(clips: pd.DataFrame, split: Sequence[str]) -> pd.DataFrame:
    """clip_id, method, seed, score of every clip that is part of the split, by each of CONTROLS.

    clips: one row a clip, by clip_id, with its label and SHORTCUTS' columns; split: (clips,). A small boosted forest
    learns from the train clips; NaN is a value, too.
    """
    properties = clips[list(SHORTCUTS)].assign(has_audio=clips["has_audio"].astype(float)).to_numpy(float)
    labels, sides = clips["label"].to_numpy(int), np.array(split, object)
    scores: Mapping[str, NDArray[np.float64]] = {
        TOGETHER: _learnt(properties, labels, sides),
        BEST_ALONE: max(
            (_learnt(column[:, None], labels, sides) for column in properties.T),
            key=lambda told: auc(labels[sides == "val"], told[sides == "val"]),
        ),
    }
    used = sides != ""
    parts = [
        pd.DataFrame({"clip_id": clips.index[used], "method": method, "seed": 0, "score": told[used]})
        for method, told in scores.items()
    ]
    return pd.concat(parts, ignore_index=True)


def _learnt(
    properties: NDArray[np.float64], labels: NDArray[np.int64], sides: NDArray[np.object_]
) -> NDArray[np.float64]:
    """P(fake) of every clip, (N,)."""
    forest = HistGradientBoostingClassifier(max_iter=50, max_depth=3, min_samples_leaf=5, random_state=0)
    train = sides == "train"
    told: NDArray[np.float64] = forest.fit(properties[train], labels[train]).predict_proba(properties)[:, 1]
    return told
