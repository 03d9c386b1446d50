"""Baselines on a small cache: every method once, kept, measured like the searched network."""

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import pipeline.experiments.baselines
from cache_schemas.manifest import Clip, write_manifest
from cache_schemas.runs import ScoredRow
from pipeline.experiments.baselines import late_fusion, run_baselines
from pipeline.experiments.methods import SEARCHES, Method, Outcome, methods
from pipeline.runs.cache import Source, Windows
from pipeline.statistics.metrics import auc
from pipeline.workspace import Workspace
from tests.pipeline.run_fixture import make_index, make_workspace
from tests.pipeline.small_experiments import RETRAIN, small


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("work"), make_index())


@pytest.fixture(scope="module")
def table(workspace: Workspace) -> pd.DataFrame:
    return run_baselines(workspace, small())


def test_every_method_is_measured_and_written(workspace: Workspace, table: pd.DataFrame) -> None:
    names = set(methods(Source.of(workspace, small()).windows(), small()))
    assert set(SEARCHES) < names
    assert "search, as in params.yaml" not in names, "it is one of SEARCHES"
    late = {"late fusion, mean", "late fusion, product", "late fusion, logistic regression"}
    assert set(table["method"]) == names | late
    assert list(table["auc"]) == sorted(table["auc"], reverse=True)
    assert table["auc"].between(0, 1).all()
    assert ((table["auc_low"] <= table["auc_high"]) | table["auc_low"].isna()).all()
    written = pd.read_csv(workspace.baselines / "baselines.csv")
    assert list(written["method"]) == list(table["method"])
    assert (workspace.baselines / "baselines.svg").read_text().startswith("<svg")


def test_what_is_finished_is_kept(workspace: Workspace, table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*batch: object) -> None:
        raise AssertionError("a finished method was run again")

    monkeypatch.setattr(pipeline.experiments.baselines, "run_method", never)
    pd.testing.assert_frame_equal(run_baselines(workspace, small()), table)


def test_a_lost_method_alone_is_done_again(workspace: Workspace, table: pd.DataFrame) -> None:
    files = sorted((workspace.runs / "baselines").glob("*.json"))
    lost = next(path for path in files if '"GMU' in path.read_text() or "gated" in path.read_text())
    lost.unlink()
    again = run_baselines(workspace, small())
    pd.testing.assert_frame_equal(again, table)
    assert lost.exists()


def test_late_fusion_joins_the_scores_of_one_seed(workspace: Workspace) -> None:
    windows = Source.of(workspace, small()).windows()
    windows = replace(windows, features=dict(windows.features))
    n = len(windows.split)
    v, a = (ScoredRow(method="m", seed=3, parameters=5, scores=[p] * n, seconds=0) for p in (0.8, 0.4))
    noisy = ScoredRow(method="m", seed=3, parameters=5, scores=list(np.where(windows.labels == 1, 0.9, 0.2)), seconds=0)
    joined = late_fusion({"visual only, MLP": [v], "audio only, MLP": [a]}, windows)
    assert joined["late fusion, mean"][0].scores[0] == pytest.approx(0.6)
    assert joined["late fusion, product"][0].scores[0] == pytest.approx(0.32 / (0.32 + 0.12))
    assert joined["late fusion, mean"][0].parameters == 10
    mute = np.arange(n) % 3 == 0
    for name, x in windows.layers_of("audio").items():
        windows.features[name] = x.clone()
        windows.features[name][mute] = 0
    joined = late_fusion({"visual only, MLP": [v], "audio only, MLP": [a]}, windows)
    for rows in joined.values():
        scores = np.array(rows[0].scores)
        assert (scores[mute] == 0.8).all(), "where nothing is heard, the picture's score alone"
        assert (scores[~mute] != 0.8).all()
    joined = late_fusion({"visual only, MLP": [noisy], "audio only, MLP": [a]}, windows)
    assert auc(windows.labels, joined["late fusion, logistic regression"][0].scores) == 1.0


def test_folds_score_every_clip_by_networks_that_have_not_seen_its_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make_index(windows=1)
    workspace = make_workspace(tmp_path, index)
    partner = {f"s{i:02d}": f"s{i ^ 1:02d}" for i in range(20)}  # lends its face and voice
    write_manifest(workspace.manifest, [_clip(row, partner) for row in index.to_dict("records")])
    splits = []

    def run(windows: Windows, seeds: Sequence[int]) -> list[Outcome]:
        split = np.array(windows.split)
        splits.append(split)
        right = windows.labels.astype(float)
        return [Outcome(np.where(split == "test", 1 - right, right) + seed / 100, 7) for seed in seeds]

    names = ("visual only, MLP", "audio only, MLP")
    methods = {n: Method(n, run) for n in names}
    monkeypatch.setattr(pipeline.experiments.baselines, "methods", lambda windows, params: methods)
    table = run_baselines(workspace, small(), folds=5)
    row = table.set_index("method").loc["visual only, MLP"]
    assert (row["auc"], row["seeds"], row["parameters"]) == (0.0, 3, 7), "only scores of clips not seen count"
    assert (row["auc_RVFA_low"], row["auc_RVFA"], row["auc_RVFA_high"]) == (0.0, 0.0, 0.0)
    tested = np.zeros(len(index), dtype=int)
    for split in splits[::2]:
        subjects = {name: set(index["subject_id"][split == name]) for name in ("train", "val", "test")}
        assert all(subjects.values())
        for name, people in subjects.items():
            lenders = {partner[person] for person in people}
            assert people | lenders == people, f"{name} shares people with another split"
        tested += split == "test"
    assert (tested == 1).all()
    assert (workspace.baselines / "folds.csv").exists()
    assert not (workspace.baselines / "baselines.csv").exists()


def _clip(row: Mapping[Hashable, Any], partner: Mapping[str, str]) -> Clip:
    names = ("clip_id", "path", "dataset", "subject_id", "video_label", "audio_label", "label", "category", "method")
    known = {name: row[name] for name in (*names, "split", "file_bytes")}
    return Clip(**known, source_id=partner[row["subject_id"]], target_id="", split_kind="official")


def test_a_seed_that_fails_is_named_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = make_workspace(tmp_path, make_index(windows=1))

    def run(windows: Windows, seeds: Sequence[int]) -> list[Outcome]:
        return [Outcome(windows.labels + 0.1, 7) if seed else Outcome(failed="it diverged") for seed in seeds]

    def fails(windows: Windows, seeds: Sequence[int]) -> list[Outcome]:
        return [Outcome(failed="it never works") for _ in seeds]

    known = {n: Method(n, run) for n in ("visual only, MLP", "audio only, MLP")} | {
        "hopeless": Method("hopeless", fails)
    }
    monkeypatch.setattr(pipeline.experiments.baselines, "methods", lambda windows, params: known)
    table = run_baselines(workspace, small()).set_index("method")
    assert tuple(table.loc["visual only, MLP", ["auc", "seeds", "failed"]]) == (1.0, 2, "it diverged")
    assert tuple(table.loc["late fusion, mean", ["auc", "seeds", "failed"]]) == (1.0, 2, "it diverged")
    assert table.index[-1] == "hopeless"
    assert tuple(table.loc["hopeless", ["seeds", "failed"]]) == (0, "it never works")
    stored = json.loads((workspace.baselines / "baselines.json").read_text())
    assert stored["cache"] == Source.of(workspace, small()).identity
    assert stored["methods"]["visual only, MLP"]["failed"] == {"0": "it diverged"}


def test_a_method_is_named_by_the_settings_that_it_reads(workspace: Workspace) -> None:
    windows = Source.of(workspace, small()).windows()
    before, after = (methods(windows, small(retrain=RETRAIN | {"epochs": epochs})) for epochs in (2, 3))
    moved = {name for name in before if before[name].settings != after[name].settings}
    assert moved == {name for name in before if not name.startswith(("logistic regression", "SVM"))}
