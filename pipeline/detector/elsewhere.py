"""What a detector's scores are worth on what is unlike its training data: by a protocol that left that out in turn."""

from __future__ import annotations

from cache_schemas.evaluation import read_protocol_scores
from cache_schemas.evidence import Evidence
from cache_schemas.protocol import read_protocol
from cache_schemas.run import RetrainRun
from cache_schemas.stored_zip import BundleError
from pipeline.params import Params
from pipeline.runs.keys import made_by
from pipeline.statistics.limits import calibrated
from pipeline.workspace import Workspace


def evidence_elsewhere(workspace: Workspace, run: RetrainRun, evidence: Evidence, name: str) -> Evidence:
    """The evidence with the fusion network calibrated on the protocol's clips, scored by networks of the same making.

    Each was left out of training, search and choice of whatever scored it, with all that is like it: calibration by
    cross-validation over sources. When a clip is not judged, and what one modality alone is worth, stays as it is.
    Raises RunFileError where the protocol was not run, BundleError where it is no such protocol, or of other networks.
    """
    path = workspace.protocols / name / "protocol.json"
    protocol = read_protocol(path)
    again = f"run `bmnas protocol {name}` again (what is trained is kept)"
    if protocol["protocol"]["kind"] != "leave-one-out":
        raise BundleError(f"{path}: protocol.kind: {protocol['protocol']['kind']}: it must be leave-one-out")
    if protocol["cache"] != run.cache:
        raise BundleError(f"{path} is of another cache than the networks learnt from: {again}")
    if protocol.get("settings") != made_by(Params.model_validate(run.params)):
        raise BundleError(f"{path}: settings are not those by which these networks were found and trained: {again}")
    scores = read_protocol_scores(path.with_name("scores.csv"))
    clips = scores[scores["method"] == "search"].groupby("clip_id").agg({"label": "first", "score": "mean"})
    worth = calibrated(clips["label"], clips["score"])
    if isinstance(worth, str):
        raise BundleError(f"{path}: nothing can be calibrated on the clips that `search` scored: {worth}")
    if "fusion" not in evidence.systems:
        raise BundleError(
            f"{workspace.evaluate / 'evidence.json'}: undefined: fusion: {evidence.undefined.get('fusion')}"
        )
    found = evidence.systems["fusion"].model_copy(update=worth | {"protocol": name})
    return evidence.model_copy(update={"systems": evidence.systems | {"fusion": found}})
