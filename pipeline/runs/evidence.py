"""When retrained networks can be asked, and what their scores are worth: learnt from the cache, kept in a file."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from cache_schemas.evidence import Evidence, write_evidence
from cache_schemas.features import FeatureCache
from cache_schemas.files import file_sha256
from pipeline.runs.familiar import clip_distances
from pipeline.runs.kept import retrained_digest
from pipeline.runs.unlike import Familiar, write_familiar
from pipeline.statistics.answers import LEAST
from pipeline.statistics.limits import fit_systems
from pipeline.workspace import Workspace


def clip_quantities(cache: FeatureCache, familiar: Mapping[str, Familiar], shown: pd.DataFrame) -> pd.DataFrame:
    """By clip_id of the cache: visual_distance, audio_distance, face_share, speech_s; NaN where one is not known.

    shown: what `pipeline.features.shown` says, by clip_id.
    """
    return clip_distances(cache, familiar).join(shown.reindex(columns=list(LEAST)).astype(float))


def keep_evidence(
    workspace: Workspace, clips: pd.DataFrame, scores: pd.DataFrame, familiar: Mapping[str, Familiar]
) -> None:
    """Replaces evidence.json and unlike.safetensors; clips, scores: the rows of clips.csv and scores.csv."""
    matrices = workspace.evaluate / "unlike.safetensors"
    write_familiar(matrices, familiar)
    systems, undefined = fit_systems(clips, scores)
    found = Evidence(
        retrained=retrained_digest(workspace), systems=systems, undefined=undefined, unlike=file_sha256(matrices)
    )
    write_evidence(workspace.evaluate, found)
