"""A finished run, of people with names, on a machine with folders; and what can be changed in it."""

import json
import shutil
from pathlib import Path

import pandas as pd

from cache_schemas.features import FeatureCache
from cache_schemas.files import digest, file_sha256, write_json
from cache_schemas.run import RetrainRun, read_run, write_run
from pipeline.params import Params
from pipeline.runs.evidence import keep_evidence
from pipeline.runs.familiar import fit_familiar
from pipeline.workspace import Workspace
from tests.pipeline.run_fixture import (
    LENGTH,
    make_clips,
    make_index,
    make_scores,
    make_workspace,
    write_evaluation,
)

PERSON, PATH = "Jane Doe", "people/Jane Doe/kept secret.mp4"


def finished(root: Path) -> Workspace:
    index = make_index()
    index = index.assign(
        subject_id=PERSON + " " + index["subject_id"], path=PATH + index["path"], clip_id="secret-" + index["clip_id"]
    )
    workspace = make_workspace(root, index)
    path = workspace.retrain / "retrain.json"
    kept = read_run(path, RetrainRun)
    params = Params().model_dump(mode="json")
    params["features"]["length"] = LENGTH
    params["data"]["root"] = str(root / "clips")
    params["compute"]["scheduler"] = "tls://secret.example:8786"
    params["pretrain"]["audio"] = {"name": "resnet18", "weights": f"file:{root}/first.safetensors"}
    backbones = {path: of | {"name": "tf_efficientnet_lite0"} for path, of in kept.backbones.items()}
    failed = [{"name": "fusion", "seed": 9, "reason": f"{root}/features.zarr: no space left"}]
    write_run(
        path,
        RetrainRun.model_validate(
            kept.model_dump() | {"params": params, "backbones": backbones, "failed": failed, "cache": "c"}
        ),
    )
    metrics = write_evaluation(workspace, index)
    said = [
        {"check": "a person in two splits", "found": True, "says": f"1 people are in two splits: {PERSON} s01"},
        {"check": "one file in two splits", "found": True, "says": f"the pictures of 2 clips are those of {PATH}"},
        {"check": "resolution", "found": True, "says": "picture width alone tells them apart"},
        {"check": "test clips among train", "found": False, "says": "none of 16 test clips has a window in train"},
    ]
    write_json(workspace.evaluate / "metrics.json", metrics | {"audit": said, "looks": None})
    for name, cache in (("people", "c"), ("other", "another cache")):
        content = {"schema_version": 2, "protocol": {"kind": "people", "by": None}, "seed": 0, "cache": cache}
        write_json(workspace.protocols / name / "protocol.json", content | {"adds": None, "rows": [], "skipped": []})
        row = {"clip_id": "secret", "person": PERSON, "trained_on": "a", "tested_on": "b", "method": "search"}
        numbers = {"label": 1, "seed": 0, "score": 0.5, "threshold": 0.5}
        pd.DataFrame([row | numbers]).to_csv(workspace.protocols / name / "scores.csv", index=False)
    familiar = fit_familiar(FeatureCache.open(workspace.features))
    keep_evidence(workspace, make_clips(index), make_scores(index), familiar)
    return workspace


def with_backbone(run: Workspace, root: Path, **changes: object) -> Workspace:
    """The run, with another visual backbone in its parameters."""
    workspace = Workspace(root / "other")
    shutil.copytree(run.root, workspace.root)
    path = workspace.retrain / "retrain.json"
    content = json.loads(path.read_text())
    content["params"]["features"]["visual"][0] |= changes
    next(iter(content["backbones"].values()))["name"] = content["params"]["features"]["visual"][0]["name"]
    path.write_text(json.dumps(content))
    resign(workspace)
    return workspace


def resign(workspace: Workspace) -> None:
    """Evidence that is of retrain.json as it is now."""
    path = workspace.evaluate / "evidence.json"
    content = json.loads(path.read_text()) | {"own": ""}
    content["retrained"] = file_sha256(workspace.retrain / "retrain.json")[:16]
    content["unlike"] = file_sha256(workspace.evaluate / "unlike.safetensors")
    content["own"] = digest({name: value for name, value in content.items() if name != "own"})
    path.write_text(json.dumps(content))
