"""Baselines on a small cache: every method once, kept, measured like the searched network."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import nas
import pipeline.experiments.scored
from cache_schemas.runs import ScoredRow
from nas.space import Space
from pipeline.experiments.baselines import late_fusion, run_baselines
from pipeline.experiments.methods import SEARCHES, Method, Outcome, methods
from pipeline.runs.cache import Source, Windows
from pipeline.runs.looks import looks_at
from pipeline.statistics.metrics import auc
from pipeline.statistics.systems import SAMPLED
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


def test_random_architectures_are_one_a_seed_whoever_is_on_val(workspace: Workspace) -> None:
    windows, params = Source.of(workspace, small()).windows(), small()
    method = methods(windows, params)[SAMPLED]
    two, alone = method.run(windows, (0, 1)), method.run(windows, (1,))
    assert np.ptp([outcome.scores for outcome in two], axis=0).max() > 1e-3
    np.testing.assert_allclose(two[1].scores, alone[0].scores, atol=1e-5)
    layers = Space(tuple(windows.features), params.search.cells, params.search.steps, params.search.space)
    drawn = layers.sample(1, 1)
    of = windows.to_train_on(drawn[0].layers())
    found = nas.retrain(of.features, of.labels, of.split, drawn, params.retrain, (1,))
    np.testing.assert_allclose(found[0].scores.double(), alone[0].scores, atol=1e-5)


def test_what_is_finished_is_kept(workspace: Workspace, table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*batch: object) -> None:
        raise AssertionError("a finished method was run again")

    monkeypatch.setattr(pipeline.experiments.scored, "run_method", never)
    pd.testing.assert_frame_equal(run_baselines(workspace, small()), table)
    assert looks_at(workspace, make_index())["by"] == {"baselines": 1}, "the same again is the same look"


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
    monkeypatch.setattr(pipeline.experiments.scored, "methods", lambda windows, params: known)
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
