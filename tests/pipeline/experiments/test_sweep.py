"""A grid of searches: every run as alone, kept when killed, never repeated."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

import nas
import pipeline.runs.jobs
import pipeline.runs.retrain
import pipeline.runs.search
from nas.genotype import notation
from pipeline.experiments.sweep import Grid, run_sweep
from pipeline.params import ParamsError
from pipeline.runs.cache import Source
from pipeline.runs.looks import looks_at
from pipeline.workspace import Workspace
from tests.pipeline.run_fixture import make_index, make_workspace
from tests.pipeline.small_experiments import SEARCH, Counted, failing, small
from tests.soak.sweep_kill import sweeping

BASE = small().search


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("work"), make_index())


def test_a_grid_is_read_with_the_types_of_the_config() -> None:
    grid = Grid.parse(["temperature=1,5.5", "estimator=softmax,st_gumbel", "samples=3"], 2, BASE)
    assert grid.axes == {"temperature": (1.0, 5.5), "estimator": ("softmax", "st_gumbel"), "samples": (3,)}
    assert grid.seeds == (0, 1)
    points = [(config.temperature, config.estimator) for config in grid.configs(BASE)]
    assert points == [(1.0, "softmax"), (1.0, "st_gumbel"), (5.5, "softmax"), (5.5, "st_gumbel")]
    assert grid.configs(BASE)[0].channels == BASE.channels


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["heat=1"], "--grid heat=1: allowed: FIELD=VALUE,VALUE,..., each field once, of channels, "),
        (["temperature"], "--grid temperature: allowed"),
        (["samples=1", "samples=2"], "--grid samples=2: allowed"),
        (["temperature="], "'' is no list of values"),
        (["temperature=1,hot"], "--grid temperature=1,hot: 'hot': Input should be a valid number"),
        (["temperature=-1"], "--grid temperature=-1: -1: Input should be greater than 0"),
        ([], "at least one --grid"),
    ],
)
def test_a_wrong_grid_is_one_clear_error(given: list[str], message: str) -> None:
    with pytest.raises(ParamsError) as error:
        Grid.parse(given, 1, BASE)
    assert message in str(error.value)


def test_every_row_is_what_a_search_alone_gives_and_a_larger_grid_repeats_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(pipeline.runs.search.search_batch)
    monkeypatch.setattr(pipeline.runs.search, "search_batch", counted)
    grid = Grid.parse(["temperature=1,5", "channels=4,6"], 2, BASE)
    table = run_sweep(workspace, small(), grid, retrain=True)
    assert len(table) == counted.runs == 8
    windows = Source.of(workspace, small()).windows()
    of = windows.to_train_on(windows.features)
    data = (of.features, of.labels, of.split)
    for row in table.iloc[[0, 3, 6]].itertuples():
        config = BASE.model_copy(update={"temperature": row.temperature, "channels": row.channels})
        alone = nas.search(*data, config, (row.seed,))[0]
        assert row.architecture == notation(alone.genotype)
        assert nas.Genotype.from_json(row.genotype) == alone.genotype
        assert row.val_auc == pytest.approx(alone.score, abs=2e-3)
        of = windows.to_train_on(alone.genotype.layers())
        trained = nas.retrain(of.features, of.labels, of.split, alone.genotype, small().retrain, (row.seed,))[0]
        assert row.retrained_val_auc == pytest.approx(trained.curves[trained.best_epoch]["val_auc"], abs=2e-3)
    read = pd.read_csv(workspace.sweep / "sweep.csv")
    assert list(read.columns[:5]) == ["temperature", "channels", "seed", "val_auc", "entropy"]
    larger = Grid.parse(["temperature=1,5,10", "channels=4,6"], 2, BASE)
    again = run_sweep(workspace, small(), larger, retrain=False)
    assert counted.runs == 12
    assert looks_at(workspace, make_index())["by"] == {"sweep": 4}, "a point each, and none without retraining"
    kept = again[again["temperature"] < 10].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, table[kept.columns])


def test_the_summary_has_mean_and_spread_over_seeds_and_the_figure_a_line_per_value(workspace: Workspace) -> None:
    grid = Grid.parse(["temperature=1,5", "samples=1,2"], 2, BASE)
    table = run_sweep(workspace, small(), grid, retrain=False)
    summary = pd.read_csv(workspace.sweep / "summary.csv")
    assert list(summary.columns[:5]) == ["temperature", "samples", "val_auc", "val_auc_std", "val_auc_count"]
    first = table[(table["temperature"] == 1) & (table["samples"] == 1)]["val_auc"]
    assert summary["val_auc"][0] == pytest.approx(first.mean())
    assert summary["val_auc_std"][0] == pytest.approx(first.std())
    svg = (workspace.sweep / "sweep.svg").read_text()
    assert svg.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert "samples 1" in svg
    assert "samples 2" in svg


def test_a_run_whose_gradient_vanishes_fails_alone_and_costs_no_other_a_second_time(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(pipeline.runs.search.search_batch)
    monkeypatch.setattr(pipeline.runs.search, "search_batch", counted)
    table = run_sweep(workspace, small(), Grid.parse(["temperature=2,1e12"], 2, BASE), retrain=True)
    failed = table["failed"] != ""
    assert list(failed) == [False, False, True, True]
    assert counted.runs == 4
    assert all("architecture gradient" in text for text in table["failed"][failed])
    assert table["retrained_test_auc"][~failed].notna().all()


@pytest.mark.slow
def test_a_killed_sweep_ends_with_the_same_table_and_repeats_nothing(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make soak-sweep_kill` does it ten times."""
    monkeypatch.setitem(pipeline.runs.jobs.MOST_RUNS, "cpu", 1)
    params, grid = small(search=SEARCH | {"derive": "argmax"}), ["temperature=1,5,10"]
    shutil.copytree(workspace.features, tmp_path / "work" / "features.zarr")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params.model_dump(mode="json")))
    sweep = sweeping("--grid", *grid, "--seeds", "2")
    sweep.kill(tmp_path, seconds=120, batches=2, batch_runs=1)
    kept = sweep.batches(tmp_path)
    assert 2 <= len(kept) < 6
    counted = Counted(pipeline.runs.search.search_batch)
    monkeypatch.setattr(pipeline.runs.search, "search_batch", counted)
    again = run_sweep(Workspace(tmp_path / "work"), params, Grid.parse(grid, 2, params.search), retrain=False)
    assert counted.runs == 6 - len(kept)
    assert kept.items() <= sweep.batches(tmp_path).items(), "a finished batch was written again"
    calm = run_sweep(workspace, params, Grid.parse(grid, 2, params.search), retrain=False)
    pd.testing.assert_frame_equal(again, calm, check_exact=True)


def test_a_failed_training_of_a_sweep_is_named_in_its_row(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing("retrain", {1}, monkeypatch)
    monkeypatch.setattr(pipeline.runs.retrain, "settings_of", lambda config: "else they would be finished")
    table = run_sweep(workspace, small(), Grid.parse(["temperature=1"], 2, BASE), retrain=True)
    assert [text[:24] for text in table["failed"]] == ["", "retrained: seed 1 diverg"]
    assert list(table["retrained_test_auc"].isna()) == [False, True]
    assert table["val_auc"].notna().all()
    assert set(table["cache"]) == {Source.of(workspace, small()).identity}
