"""Calibration on what a protocol left out: of the fusion network, by its clips, and of no other networks."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cache_schemas.evidence import write_evidence
from cache_schemas.run import RetrainRun, RunFileError, read_run
from cache_schemas.stored_zip import BundleError
from pipeline.detector.bundle import make_bundle
from pipeline.detector.opened import open_bundle
from pipeline.params import Params
from pipeline.runs.kept import kept_evidence
from pipeline.runs.keys import made_by
from pipeline.statistics.protocol import every_test, measure_protocol, plain_rows
from pipeline.statistics.values import Chosen, choose
from pipeline.workspace import Workspace

NAME = "leave-one-source-out"


@pytest.fixture
def tested(run: Workspace, tmp_path: Path) -> Workspace:
    """The run, with such a protocol: 40 clips of four sources, three networks each."""
    workspace = Workspace(tmp_path / "run")
    shutil.copytree(run.root, workspace.root)
    trained = read_run(workspace.retrain / "retrain.json", RetrainRun)
    folder = workspace.protocols / NAME
    folder.mkdir()
    table = measure_protocol(every_test(scores(), seed=0))
    content = {
        "schema_version": 2, "protocol": {"kind": "leave-one-out", "by": "dataset"}, "seed": 0, "cache": trained.cache,
        "settings": made_by(Params.model_validate(trained.params)), "adds": None, "rows": plain_rows(table),
        "skipped": [],
    }  # fmt: skip
    (folder / "protocol.json").write_text(json.dumps(content))
    scores().to_csv(folder / "scores.csv", index=False)
    return workspace


def scores() -> pd.DataFrame:
    draws = np.random.default_rng(0)
    rows = [
        {
            "clip_id": f"{source}{i}", "trained_on": f"all but {source}", "tested_on": source, "person": f"{source}{i}",
            "label": i % 2, "method": method, "seed": seed, "threshold": 0.5,
            "score": np.clip((0.6 if i % 2 else 0.4) + draws.normal(0, 0.2), 0.01, 0.99) if method == "search" else 0.5,
        }
        for source in "abcd" for i in range(10) for method in ("search", "SVM") for seed in range(3)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_fusion_network_is_calibrated_on_the_clips_that_were_left_out(tested: Workspace, tmp_path: Path) -> None:
    before, _ = kept_evidence(tested)
    make_bundle(tested, tmp_path / "made.bmnas", calibrate_on=NAME)
    with open_bundle(tmp_path / "made.bmnas") as workspace:
        after, _ = kept_evidence(workspace)
    table = scores()
    clips = table[table["method"] == "search"].groupby("clip_id").agg({"label": "first", "score": "mean"})
    wanted = choose(clips["label"], clips["score"])
    assert isinstance(wanted, Chosen)
    found = after.systems["fusion"]
    assert (found.kind, found.points) == (wanted.calibration.kind, list(wanted.calibration.points))
    assert ((found.low, found.high), found.threshold) == (wanted.calibration.limits, wanted.threshold)
    assert found.by == "20 real and 20 fake clips left out in turn, protocol leave-one-source-out"
    assert found.points != before.systems["fusion"].points
    assert found.limits == before.systems["fusion"].limits
    assert {name: of for name, of in after.systems.items() if name != "fusion"} == {
        name: of for name, of in before.systems.items() if name != "fusion"
    }
    assert before.systems["fusion"].by.endswith("validation clips")
    assert kept_evidence(tested)[0] == before, "the run itself keeps its own"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"protocol": {"kind": "people", "by": None}}, "kind: people: it must be leave-one-out"),
        ({"cache": "another"}, "another cache"),
        ({"settings": {"search": {"epochs": 1}, "retrain": {}, "seeds": [0]}}, "settings are not those"),
        ({"settings": None}, "settings are not those"),
    ],
)
def test_what_is_no_such_protocol_or_of_other_networks_is_refused(
    tested: Workspace, tmp_path: Path, change: dict[str, object], told: str
) -> None:
    path = tested.protocols / NAME / "protocol.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BundleError, match=told):
        make_bundle(tested, tmp_path / "made.bmnas", calibrate_on=NAME)
    assert not (tmp_path / "made.bmnas").exists()


def test_a_protocol_that_was_not_run_or_not_by_the_search_is_refused(tested: Workspace, tmp_path: Path) -> None:
    with pytest.raises(RunFileError, match="bmnas protocol"):
        make_bundle(tested, tmp_path / "made.bmnas", calibrate_on="leave-one-method-out")
    table = scores()
    table[table["method"] != "search"].to_csv(tested.protocols / NAME / "scores.csv", index=False)
    with pytest.raises(BundleError, match="nothing can be calibrated"):
        make_bundle(tested, tmp_path / "made.bmnas", calibrate_on=NAME)


def test_a_detector_that_is_not_calibrated_at_all_is_refused(tested: Workspace, tmp_path: Path) -> None:
    evidence, _ = kept_evidence(tested)
    others = {name: of for name, of in evidence.systems.items() if name != "fusion"}
    write_evidence(
        tested.evaluate, evidence.model_copy(update={"systems": others, "undefined": {"fusion": "of one class"}})
    )
    with pytest.raises(BundleError, match="fusion: of one class"):
        make_bundle(tested, tmp_path / "made.bmnas", calibrate_on=NAME)
