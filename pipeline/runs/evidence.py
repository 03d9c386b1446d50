"""When retrained networks can be asked, and what their scores are worth: learnt from the cache, kept in a file."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from cache_schemas.evidence import Evidence, read_evidence, write_evidence
from cache_schemas.features import FeatureCache
from cache_schemas.files import file_sha256
from pipeline.runs.unlike import Familiar, clip_distances, read_familiar, write_familiar
from pipeline.statistics.limits import LEAST, fit_systems
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


def kept_evidence(workspace: Workspace) -> tuple[Evidence, dict[str, Familiar]]:
    """What `keep_evidence` kept; raises RunFileError where it is missing, changed, or of other networks."""
    evidence = read_evidence(workspace.evaluate, retrained=retrained_digest(workspace))
    return evidence, read_familiar(workspace.evaluate / "unlike.safetensors")


def retrained_digest(workspace: Workspace) -> str:
    """What evidence names the retrained networks by."""
    return file_sha256(workspace.retrain / "retrain.json")[:16]
