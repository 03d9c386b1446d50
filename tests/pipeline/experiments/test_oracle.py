"""The truth about a space, and certificates of what searches found in it."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import kendalltau
from sklearn.metrics import roc_auc_score

import nas
import pipeline.runs.jobs
import pipeline.runs.retrain
from cache_schemas.oracle import EXHAUSTIVE, FIXED, RANDOM, OracleTable, read_oracle
from cache_schemas.run import Failure, RunFileError
from nas.genotype import notation
from nas.layers import Pass
from nas.memory import RunMemory
from nas.space import canonical
from pipeline.experiments.certificates import certify, fixed_fusions
from pipeline.experiments.oracle import Question, luck, run_oracle, write_oracle
from pipeline.figures.experiments import oracle_svg
from pipeline.report.stage import build_report
from pipeline.runs.cache import Source, hears
from pipeline.runs.jobs import JobError
from pipeline.runs.looks import looks_at
from pipeline.runs.retrain import run_retrain
from pipeline.workspace import Workspace
from tests.pipeline.run_fixture import LAYERS, make_index, make_workspace, write_evaluation
from tests.pipeline.small_experiments import SEARCH, Counted, failing, small

QUESTION = Question(cells=1, steps=1, kind="slots", seeds=(0, 1), sample=10)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("work"), make_index())


@pytest.fixture(scope="module")
def table(workspace: Workspace) -> OracleTable:
    return run_oracle(workspace, small(), QUESTION)


@pytest.fixture(scope="module")
def certified(workspace: Workspace, table: OracleTable) -> OracleTable:
    return certify(workspace, small(), table, (0, 1, 2))


def test_the_table_is_ranked_by_the_mean_test_auc_and_written_as_csv(workspace: Workspace, table: OracleTable) -> None:
    assert [entry.rank for entry in table.entries] == list(range(1, 11))
    assert [e.test_auc for e in table.entries] == sorted((e.test_auc for e in table.entries), reverse=True)
    assert table.noise == pytest.approx(np.sqrt(np.mean([np.var(e.test_aucs, ddof=1) for e in table.entries])))
    rows = pd.read_csv(workspace.oracle / "oracle.csv")
    assert looks_at(workspace, make_index())["by"]["oracle"] == 1
    columns = ["rank", "architecture", "parameters", "val_auc", "val_auc_std", "test_auc", "test_auc_std"]
    assert list(rows.columns) == columns
    assert list(rows["architecture"]) == [entry.architecture for entry in table.entries]


def test_every_value_is_what_a_training_alone_gives(workspace: Workspace, table: OracleTable) -> None:
    windows = Source.of(workspace, small()).windows()
    test = torch.tensor([name == "test" for name in windows.split])
    for entry in table.entries[::4]:
        genotype = nas.Genotype.model_validate(entry.genotype)
        of = windows.to_train_on(genotype.layers())
        alone = nas.retrain(of.features, of.labels, of.split, genotype, small().retrain, (1,))[0]
        auc = roc_auc_score(windows.labels[test.numpy()], alone.scores[: len(test)][test])
        assert entry.test_aucs[1] == pytest.approx(auc, abs=2e-3)  # one pair of equal scores more or less
        assert entry.val_aucs[1] == pytest.approx(alone.curves[alone.best_epoch]["val_auc"], abs=2e-3)
        assert entry.parameters == sum(p.numel() for p in alone.network.parameters())


def test_finished_batches_are_kept_and_only_the_lost_one_is_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(pipeline.runs.jobs.MOST_RUNS, "cpu", 4)
    counted = Counted(pipeline.runs.retrain.train_batch)
    monkeypatch.setattr(pipeline.runs.retrain, "train_batch", counted)
    workspace = make_workspace(tmp_path, make_index())
    first = run_oracle(workspace, small(), QUESTION)
    assert counted.runs == 20
    assert run_oracle(workspace, small(), QUESTION) == first
    assert counted.runs == 20
    files = sorted((workspace.runs / "trainings").glob("*.json"))
    assert len(files) == 6  # per seed 4, 4 and 2
    files[0].unlink()
    assert run_oracle(workspace, small(), QUESTION) == first
    assert counted.runs in (22, 24)
    other = small(retrain={"channels": 5, "epochs": 1})
    assert run_oracle(workspace, other, QUESTION) != first
    assert counted.runs in (42, 44)


def test_picks_are_placed_by_their_true_quality(certified: OracleTable, workspace: Workspace) -> None:
    best = max(entry.test_auc for entry in certified.entries)
    known = {entry.architecture: entry for entry in certified.entries}
    searched = [pick for pick in certified.picks if pick.method not in (RANDOM, FIXED, EXHAUSTIVE)]
    assert len(searched) == 2 * 4 * 3
    assert any(pick.architecture not in known for pick in searched), "picks outside a sample are trained, too"
    for pick in certified.picks:
        assert pick.regret == pytest.approx(best - pick.test_auc)
        assert pick.rank == 1 + sum(entry.test_auc > pick.test_auc for entry in certified.entries)
        if pick.architecture in known:
            assert pick.test_auc == known[pick.architecture].test_auc
    assert read_oracle(workspace.oracle / "oracle.json") == certified
    assert {path.name for path in workspace.oracle.glob("*.*")} == {
        "oracle.json", "oracle.csv", "certificates.csv", "methods.csv", "oracle.svg",
    }  # fmt: skip


def test_a_search_of_the_certificate_is_the_search_alone_and_tau_is_of_its_shared_weights(
    certified: OracleTable, workspace: Workspace
) -> None:
    params = small()
    windows = Source.of(workspace, params).windows()
    of = windows.to_train_on(LAYERS)
    data = (of.features, of.labels, of.split)
    config = params.search.model_copy(update={"estimator": "gumbel", "space": "slots"})
    alone = nas.search(*data, config, (2,), keep_weights=True)[0]
    pick = next(p for p in certified.picks if (p.method, p.space, p.seed) == ("gumbel", "slots", 2))
    assert pick.architecture == notation(canonical(alone.genotype))
    genotypes = [nas.Genotype.model_validate(entry.genotype) for entry in certified.entries]
    val = np.array([name == "val" for name in windows.split])
    scores = []
    for genotype in genotypes:
        network = nas.CompactNetwork.from_weights(genotype, alone.weights or {}, LAYERS).fusion
        with torch.no_grad():
            logits = network(
                {name: x[None, torch.as_tensor(val)].float() for name, x in windows.features.items()}, Pass("batch")
            )
        scores.append(roc_auc_score(windows.labels[val], (logits[0, :, 1] - logits[0, :, 0])))
    truth = [entry.test_auc for entry in certified.entries]
    assert pick.kendall_tau == pytest.approx(kendalltau(scores, truth).statistic, abs=0.1)


def test_methods_without_a_search_stand_beside_it_at_equal_cost(certified: OracleTable) -> None:
    rows = {(c.method, c.space): c for c in certified.certificates}
    assert rows[RANDOM, "slots"].runs == 3
    assert rows[RANDOM, "slots"].kendall_tau is None
    assert rows[RANDOM, "slots"].cost_trainings == pytest.approx(
        max(1, round(np.mean([c.cost_trainings for c in certified.certificates if c.kendall_tau is not None]))), abs=1
    )
    assert rows[FIXED, "slots"].runs == 2  # one per training seed
    assert rows[EXHAUSTIVE, "slots"].cost_trainings == 10
    for pick in (pick for pick in certified.picks if pick.method == EXHAUSTIVE):
        by_val = max(certified.entries, key=lambda entry: entry.val_aucs[pick.seed])
        assert pick.test_auc == by_val.test_auc
        val, truth = zip(*[(e.val_aucs[pick.seed], e.test_auc) for e in certified.entries], strict=True)
        assert pick.kendall_tau == pytest.approx(kendalltau(val, truth).statistic)
    fixed = {notation(genotype) for genotype in fixed_fusions(list(LAYERS), 1, 1)}
    assert {pick.architecture for pick in certified.picks if pick.method == FIXED} <= fixed
    assert all(name.startswith("visual/net.blocks.3 + audio/net.blocks.3: ") for name in fixed)


def test_luck_is_what_the_best_loses_in_the_trainings_that_did_not_choose_it() -> None:
    assert luck(np.array([[0.9], [0.5]])) is None
    assert luck(np.array([[0.9, 0.9], [0.5, 0.5]])) == 0
    # The first row leads by its second seed alone; chosen by that, it is worth 0.5, else the second row is chosen.
    assert luck(np.array([[0.5, 0.9], [0.6, 0.6]])) == pytest.approx(0.7 - (0.5 + 0.6) / 2)
    alike = np.random.default_rng(0).normal(0.8, 0.02, (2000, 5))
    assert luck(alike) == pytest.approx(alike.mean(axis=1).max() - 0.8, abs=0.03)
    better = np.vstack([alike, np.full((1, 5), 0.9)])
    assert luck(better) == pytest.approx(0, abs=1e-9)


def test_the_figure_shows_every_method(certified: OracleTable) -> None:
    svg = oracle_svg(certified)
    assert svg == oracle_svg(certified)
    for text in ("gumbel_rao, bmnas", RANDOM, "true rank", "10 architectures"):
        assert text in svg


def test_one_class_in_the_test_split_is_one_clear_error(tmp_path: Path) -> None:
    index = make_index()
    index.loc[index["split"] == "test", "label"] = 1
    with pytest.raises(JobError, match=r"the test split holds only labels \[1\].*raise split.test in params.yaml"):
        run_oracle(make_workspace(tmp_path, index), small(), QUESTION)


def test_more_runs_than_fit_are_split_and_none_that_fits_is_one_clear_error(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    question = Question(cells=1, steps=1, kind="slots", seeds=(7,), sample=6)
    monkeypatch.setattr(pipeline.runs.jobs, "memory_per_worker", lambda compute, runs: 10_000)
    with pytest.raises(JobError, match=r"one run takes .* MB beside the cache, and may use 0 MB"):
        run_oracle(workspace, small(), question)
    monkeypatch.setattr(pipeline.runs.jobs, "memory_per_worker", lambda compute, runs: 4_000_000)
    monkeypatch.setattr(pipeline.runs.retrain, "retrain_memory", lambda *_, same_seed: RunMemory(0, 1_000_000))
    counted = Counted(pipeline.runs.retrain.train_batch)
    monkeypatch.setattr(pipeline.runs.retrain, "train_batch", counted)
    before = len(list((workspace.runs / "trainings").glob("*.json")))
    table = run_oracle(workspace, small(), question)
    heard = sum(hears(nas.Genotype.model_validate(entry.genotype).layers()) for entry in table.entries)
    said = " ".join(capfd.readouterr().err.split())
    assert counted.runs == 6
    assert "2 fit 60% of the 4 MB of a worker" in said
    assert len(list((workspace.runs / "trainings").glob("*.json"))) == before + math.ceil(heard / 2) + math.ceil(
        (6 - heard) / 2
    )


def test_a_missing_table_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RunFileError, match="does not exist: run `bmnas oracle` first"):
        read_oracle(tmp_path / "oracle.json")


def test_a_genotype_of_another_cache_or_space_is_one_clear_error(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, make_index())
    path = workspace.search / "search.json"
    written = path.read_text()
    path.write_text(written.replace("visual/net.blocks.2", "visual/other.blocks.2"))
    with pytest.raises(RunFileError, match=r"seed 0, reads .'visual/other.blocks.2'., which is none of its layers in "):
        run_retrain(workspace, small())
    path.write_text(written.replace("LinearGLU", "Product"))
    with pytest.raises(RunFileError, match=r"is none of this space .*operation 'Product' is unknown; allowed: Sum, "):
        run_retrain(workspace, small())
    path.write_text(written)
    run = run_retrain(workspace, small())
    assert [entry.network for entry in run.entries] == ["fusion", "fusion", "visual", "visual", "audio", "audio"]


def test_the_report_shows_the_certificates_where_the_oracle_ran(certified: OracleTable, workspace: Workspace) -> None:
    write_evaluation(workspace, make_index())
    write_oracle(workspace, certified)
    page = build_report(workspace, small()).read_text()
    assert "bmnas oracle</code> measures it" not in page
    assert "another feature cache" not in page
    for row in certified.certificates:
        assert f'<th scope="row">{row.method}</th><td>{row.space}</td><td class="n">{row.runs}</td>' in page
    failed = [Failure(name="a + b: Sum", seed=seed, reason="diverged") for seed in (0, 1)]
    table = certified.model_copy(update={"cache": "other", "failed": failed})
    (workspace.oracle / "oracle.json").write_text(table.model_dump_json())
    page = build_report(workspace, small()).read_text()
    assert "measured on another feature cache" in page
    assert "Architectures left out, because a training of them failed: 1" in page
    (workspace.oracle / "oracle.json").unlink()
    assert "bmnas oracle</code> measures it" in build_report(workspace, small()).read_text()


def test_an_architecture_that_fails_to_train_is_named_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, question = make_workspace(tmp_path, make_index()), replace(QUESTION, sample=4)
    failing("retrain", {1}, monkeypatch, calls={3})  # the last: one architecture with seed 1
    monkeypatch.setitem(pipeline.runs.jobs.MOST_RUNS, "cpu", 3)
    table = run_oracle(workspace, small(), question)
    assert [entry.rank for entry in table.entries] == list(range(1, len(table.entries) + 1))
    assert 0 < len(table.failed) == 4 - len(table.entries)
    assert {failed.name for failed in table.failed}.isdisjoint(entry.architecture for entry in table.entries)
    assert all("seed 1 diverged" in failed.reason for failed in table.failed)
    certified = certify(workspace, small(search=SEARCH | {"derive": "argmax"}), table, (0,))
    assert {pick.architecture for pick in certified.picks}.isdisjoint(failed.name for failed in table.failed)


def test_where_every_training_fails_the_oracle_says_why(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    failing("retrain", {3}, monkeypatch)
    with pytest.raises(JobError, match="a training of every architecture failed; the first one: seed 3 diverged"):
        run_oracle(workspace, small(), replace(QUESTION, seeds=(3,), sample=2))
