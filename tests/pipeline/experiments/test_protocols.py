"""The command `protocol` on a small cache: what is measured, kept and written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import pipeline.experiments.protocols
import pipeline.experiments.scored
from cache_schemas.manifest import Clip, Unused, read_manifest, write_manifest, write_unused
from cache_schemas.tables import read_table
from pipeline.cli import app
from pipeline.controls.properties import CONTROLS, property_scores
from pipeline.experiments.folds import BUILT_IN, Protocol
from pipeline.experiments.methods import Method, Outcome
from pipeline.experiments.protocols import run_protocol
from pipeline.params import ParamsError
from pipeline.runs.cache import Windows
from pipeline.runs.looks import looks_at
from pipeline.statistics.means import MEAN, PAIRS, disagree
from pipeline.statistics.metrics import auc
from pipeline.statistics.protocol import (
    every_test,
    measure_protocol,
    val_thresholds,
    what_is_added,
)
from pipeline.statistics.shortcuts import SHORTCUTS
from pipeline.workspace import Workspace
from tests.pipeline.run_fixture import make_index, make_workspace
from tests.pipeline.small_experiments import small

NAMES = ("dataset", "subject_id", "video_label", "audio_label", "label", "category", "method", "split", "file_bytes")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """20 people, each lending face and voice to one other, in two data sets."""
    index = make_index(windows=2)
    index = index.assign(dataset=np.where(index["subject_id"].str[1:].astype(int) // 2 % 2, "a", "b"))
    work = make_workspace(tmp_path_factory.mktemp("work"), index)
    clips = index.drop_duplicates("clip_id").to_dict("records")
    write_manifest(
        work.manifest,
        [
            Clip(
                **{name: row[name] for name in (*NAMES, "clip_id", "path")},
                source_id=f"s{int(row['subject_id'][1:]) ^ 1:02d}",
                target_id="",
                split_kind="official",
            )
            for row in clips
        ],
    )
    return work


def known(splits: list[np.ndarray] | None = None) -> dict[str, Method]:
    """A method that is right on what it learns from and wrong on what it is tested on, and one that always fails."""

    def run(windows: Windows, seeds: Sequence[int]) -> list[Outcome]:
        split, right = np.array(windows.split), windows.labels.astype(float)
        assert all(len(x) == len(split) for x in windows.features.values())
        if splits is not None:
            splits.append(split)
        return [
            Outcome(np.where(split == "test", 0.9 - 0.8 * right, 0.1 + 0.8 * right) + seed / 100, 7) for seed in seeds
        ]

    def fail(windows: Windows, seeds: Sequence[int]) -> list[Outcome]:
        return [Outcome(failed="it never works") for _ in seeds]

    return {"wrong": Method("wrong", run), "hopeless": Method("hopeless", fail)}


@pytest.fixture
def methods(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    splits: list[np.ndarray] = []
    for module in (pipeline.experiments.protocols, pipeline.experiments.scored):
        monkeypatch.setattr(module, "methods", lambda windows, params: known(splits))
    monkeypatch.setattr(pipeline.experiments.protocols, "searches", lambda own: {"wrong": own})
    return splits


def protocol_of(name: str) -> Protocol:
    return BUILT_IN[name].model_copy(update={"methods": ("search", "hopeless")})


def test_only_scores_of_clips_that_were_not_seen_count(workspace: Workspace, methods: list[np.ndarray]) -> None:
    found = run_protocol(workspace, small(), "people", protocol_of("people"))
    row, *controls = found.table.to_dict("records")
    assert [each["method"] for each in controls] == list(CONTROLS)
    assert (row["trained_on"], row["tested_on"], row["method"], row["seeds"]) == ("other people", "all", "search", 3)
    assert (row["auc"], row["auc_low"], row["auc_high"], row["auc_one"]) == (0, 0, 0, 0)
    assert (row["fakes_missed"], row["reals_accused"]) == (1, 1)
    assert found.adds
    assert (found.adds["method"], found.adds["tests"]) == ("search", 1)
    assert found.adds["pairs"] == found.adds["mean"], "there is one test only"
    assert found.adds["pairs"]["high"] < 0
    assert found.adds["sentence"].startswith("search adds -")
    assert found.adds["sentence"].endswith("it is worse.")
    assert row["real"] + row["fake"] == workspace_clips(workspace)
    folder = workspace.protocols / "people"
    people = pd.read_csv(folder / "people.csv")
    for _, fold in people.groupby("fold"):
        train, val, test = (set(fold.loc[fold["side"] == side, "person"]) for side in ("train", "val", "test"))
        assert min(len(train), len(val), len(test)) > 0
        assert len(train | val | test) == len(train) + len(val) + len(test)
    assert (folder / "heatmap.svg").read_text().startswith("<svg")
    stored = json.loads((folder / "protocol.json").read_text())
    assert (stored["rows"][0]["auc"], stored["skipped"], stored["protocol"]["kind"]) == (0, [], "people")
    scores = read_table(folder / "scores.csv")
    scores = scores[scores["method"] == "search"]
    assert auc(*scores.groupby("clip_id").agg(label=("label", "first"), score=("score", "mean")).to_numpy().T) == 0


def workspace_clips(workspace: Workspace) -> int:
    return len(read_table(workspace.manifest))


def test_a_left_out_source_takes_no_part_in_training(workspace: Workspace, methods: list[np.ndarray]) -> None:
    table = run_protocol(workspace, small(), "sources", protocol_of("leave-one-source-out")).table
    table = table[table["method"] == "search"]
    assert list(table["trained_on"]) == ["all but a", "all but b", PAIRS, MEAN]
    assert list(table["tested_on"]) == ["a", "b", "2 tests, 2 of them with 90 % of the pairs", "2 tests"]
    assert {side for split in methods for side in split} == {"train", "val", "test"}


def test_a_matrix_of_data_sets(workspace: Workspace, methods: list[np.ndarray]) -> None:
    table = run_protocol(workspace, small(), "cross", protocol_of("cross-data-set")).table
    pairs = set(zip(table["trained_on"], table["tested_on"], strict=True))
    assert pairs == {("a", "a"), ("a", "b"), ("b", "a"), ("b", "b")} | {
        (PAIRS, "2 tests, 2 of them with 90 % of the pairs"),
        (MEAN, "2 tests"),
    }


def test_what_is_finished_is_kept(
    workspace: Workspace, methods: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_protocol(workspace, small(), "people", protocol_of("people")).table

    def never(*batch: object) -> None:
        raise AssertionError("a finished method was run again")

    monkeypatch.setattr(pipeline.experiments.scored, "run_method", never)
    pd.testing.assert_frame_equal(run_protocol(workspace, small(), "people", protocol_of("people")).table, first)
    assert looks_at(workspace, make_index())["by"]["protocol people"] == 1, "the same again is the same look"


def test_a_method_that_there_is_not_is_named(workspace: Workspace) -> None:
    wrong = BUILT_IN["people"].model_copy(update={"methods": ("search", "magic")})
    with pytest.raises(ParamsError, match=r"'magic': allowed: search, logistic regression"):
        run_protocol(workspace, small(), "people", wrong)


def test_real_methods_over_one_cache(workspace: Workspace) -> None:
    chosen = ("search", "logistic regression, all layers")
    one = BUILT_IN["leave-one-source-out"].model_copy(update={"methods": chosen})
    table = run_protocol(workspace, small(seeds=(0, 1)), "real", one).table
    assert list(table["method"].unique()) == [*chosen, *CONTROLS]
    assert table["auc"].between(0, 1).all()


def scored(trained_on: str, tested_on: str, labels: Sequence[int], scores: Sequence[float]) -> pd.DataFrame:
    n = len(labels)
    return pd.DataFrame(
        {
            "clip_id": [f"{tested_on}{i}" for i in range(n)],
            "person": [f"p{i // 2 % 8}" for i in range(n)],
            "label": labels,
            "score": scores,
            "trained_on": trained_on,
            "tested_on": tested_on,
            "method": "m",
            "seed": 0,
            "threshold": 0.5,
        }
    )


def test_measured_by_hand() -> None:
    """A single-class test counts at the threshold alone; the mean leaves out what was trained on."""
    parts = [
        scored("a", "a", [0, 1] * 4, [0.1, 0.9] * 4),
        scored("a", "b", [0, 1] * 4, [0.9, 0.1] * 4),
        scored("b", "a", [0, 1] * 4, [0.2, 0.6] * 3 + [0.6, 0.4]),
        scored("b", "c", [1, 1, 1, 1], [0.9, 0.2, 0.8, 0.7]),
    ]
    table = measure_protocol(every_test(pd.concat(parts, ignore_index=True), seed=0)).set_index(
        ["trained_on", "tested_on"]
    )
    assert list(table["auc"].iloc[:3]) == [1, 0, pytest.approx(13.5 / 16)]
    assert np.isnan(table.loc[("b", "c"), "auc"])
    assert table.loc[("b", "c"), "fakes_missed"] == 0.25
    assert table.loc[(MEAN, "2 tests"), "auc"] == pytest.approx(13.5 / 32)


def test_a_property_that_tells_the_label_is_found_out() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(120) % 2
    clips = pd.DataFrame({name: random.standard_normal(120) for name in SHORTCUTS}, [f"c{i}" for i in range(120)])
    clips = clips.assign(
        label=labels,
        has_audio=True,
        path="a.mp4",
        fps=np.where(labels, 25.0, np.where(random.random(120) < 0.9, 30, 25)),
    )
    found = property_scores(clips, ["train"] * 60 + ["val"] * 20 + ["test"] * 30 + [""] * 10)
    assert found.groupby("method").size().to_dict() == dict.fromkeys(CONTROLS, 110)
    for _, of in found.groupby("method"):
        tested = of.set_index("clip_id").loc[[f"c{i}" for i in range(80, 110)], "score"]
        assert auc(labels[80:110], tested) > 0.85


def test_what_is_added_is_paired_and_against_the_strongest() -> None:
    """Two systems that agree but for one clip: the difference is far more certain than either."""
    random = np.random.default_rng(1)
    labels, good = np.arange(200) % 2, random.random(200)
    good = np.clip(good * 0.6 + 0.4 * labels, 0, 1)
    close, weak = np.where(np.arange(200) == 7, 0.0, good), random.random(200)
    table = pd.concat(
        [
            scored("x", "y", list(labels), list(score)).assign(method=name, person=[f"p{i // 5}" for i in range(200)])
            for name, score in (("ours", good), ("close", close), ("weak", weak))
        ],
        ignore_index=True,
    )
    adds = what_is_added(every_test(table, seed=0), "ours")
    assert adds
    found = adds["pairs"]
    assert found["control"] == "close"
    assert found["difference"] == pytest.approx(auc(labels, good) - auc(labels, close))
    assert 0 <= found["low"] <= found["difference"] <= found["high"] < 0.04
    assert what_is_added(every_test(table[table["label"] == 1], seed=0), "ours") is None


def test_the_mean_over_tests_is_as_sure_as_they_are_alike() -> None:
    """Tests that differ widen it; one of a single person, which has no interval itself, takes none from the mean."""

    def mean_of(*flipped: float) -> dict[str, Any]:
        random, labels = np.random.default_rng(2), np.arange(60) % 2
        parts = [scored("all but a", "a", [0, 1], [0.2, 0.9]).assign(person="one")]
        for name, share in zip("bcdef", flipped, strict=True):
            score = np.where(random.random(60) < share, 1 - labels, labels) * 0.5 + random.random(60) / 2
            part = scored(f"all but {name}", name, list(labels), list(score))
            parts.append(part.assign(person=[f"{name}{i // 2}" for i in range(60)]))
        table = pd.concat(parts, ignore_index=True).assign(method="m")
        rows = measure_protocol(every_test(table, seed=0)).set_index("trained_on")
        assert np.isnan(rows.loc["all but a", "auc_low"])
        assert rows.loc["all but a", "auc_reason"] == "no interval: too few people (1; 6 needed)"
        assert rows.loc[MEAN, "tested_on"] == "6 tests"
        return {of: dict(rows.loc[of]) for of in (PAIRS, MEAN)}

    alike, unlike = mean_of(*[0.05] * 5), mean_of(0.0, 0.0, 0.0, 0.5, 0.5)
    for of in (PAIRS, MEAN):
        for row in (alike[of], unlike[of]):
            assert row["auc_low"] < row["auc"] < row["auc_high"]
        assert unlike[of]["auc_high"] - unlike[of]["auc_low"] > 2 * (alike[of]["auc_high"] - alike[of]["auc_low"])


def uneven() -> pd.DataFrame:
    """A large test on which "ours" is worse than "theirs", and six of two clips on which it is right by luck."""
    random = np.random.default_rng(4)
    labels = np.arange(80) % 2
    weak, strong = (labels * seen + random.random(80) for seen in (0.1, 0.6))
    people = [f"p{i // 4}" for i in range(80)]
    parts = [
        scored("all but large", "large", list(labels), list(score / 2)).assign(method=name, person=people)
        for name, score in (("ours", weak), ("theirs", strong))
    ]
    for number in range(6):
        for name, fake in (("ours", 0.9), ("theirs", 0.1 if number % 2 else 0.9)):
            part = scored(f"all but small{number}", f"small{number}", [0, 1], [0.5, fake])
            parts.append(part.assign(method=name, person=f"{number}"))
    return pd.concat(parts, ignore_index=True)


def test_a_pair_of_clips_counts_alike_in_whichever_test_it_is() -> None:
    """By hand: 1600 pairs of the large test, and one of each small one; fakes count in what is missed of them."""
    table = uneven()
    large = table[(table["tested_on"] == "large") & (table["method"] == "ours")]
    share = auc(large["label"], large["score"])
    rows = measure_protocol(every_test(table, seed=0)).set_index(["trained_on", "method"])
    pairs, mean = rows.loc[(PAIRS, "ours")], rows.loc[(MEAN, "ours")]
    assert pairs["tested_on"] == "7 tests, 1 of them with 90 % of the pairs"
    assert pairs["auc"] == pytest.approx((1600 * share + 6) / 1606)
    assert mean["auc"] == pytest.approx((share + 6) / 7)
    missed = float((large.loc[large["label"] == 1, "score"] < 0.5).sum())
    assert pairs["fakes_missed"] == pytest.approx(missed / 46)
    assert mean["fakes_missed"] == pytest.approx(missed / 40 / 7)
    assert list(rows.index.get_level_values("trained_on")[-4:]) == [PAIRS, PAIRS, MEAN, MEAN], "pairs lead"


def test_where_the_averages_differ_in_sign_it_is_said() -> None:
    adds = what_is_added(every_test(uneven(), seed=0), "ours")
    assert adds
    assert adds["pairs"]["difference"] < -0.1
    assert adds["mean"]["difference"] > 0.1
    assert disagree(adds)
    first, second = adds["sentence"].split(" As a mean over the tests ")
    assert f"{adds['pairs']['difference']:+.3f} to the strongest of the others, theirs (95 % interval of the" in first
    assert f"{adds['mean']['difference']:+.3f}" in second
    assert second.endswith("The two disagree about the sign: what it adds depends on how tests are counted.")
    assert not disagree(adds | {"mean": adds["pairs"]})


def test_of_few_tests_or_people_nothing_is_said_but_the_points() -> None:
    """Five tests are too few to speak of the next one, however many people there are; so are one test's five people."""
    table = uneven()
    few = table[~table["tested_on"].isin(["small0", "small1"])]
    rows = measure_protocol(every_test(few, seed=0)).set_index(["trained_on", "method"])
    assert rows.loc[("all but large", "ours"), "auc_low"] > 0
    for of in (PAIRS, MEAN):
        assert rows.loc[(of, "ours"), "auc"] > 0
        assert np.isnan(rows.loc[(of, "ours"), "auc_low"])
        assert rows.loc[(of, "ours"), "auc_reason"] == "no interval: too few tests (5; 6 needed)"
    adds = what_is_added(every_test(few, seed=0), "ours")
    assert adds
    assert [adds["pairs"][key] for key in ("low", "high", "p")] == [None] * 3
    assert adds["sentence"].count("theirs; no interval: too few tests (5; 6 needed).") == 2
    assert not any(word in adds["sentence"] for word in ("worse", "something", "chance", "95 %"))
    rare = table[(table["tested_on"] == "large") & ((table["label"] == 0) | (table["person"] < "p13"))]
    row = every_test(rare, seed=0)[0].row
    assert (row["people"], row["auc_reason"]) == (20, "no interval: too few people with fake clips (5; 6 needed)")
    one = table[(table["tested_on"] == "large") & table["person"].isin([f"p{i}" for i in range(5)])]
    adds = what_is_added(every_test(one, seed=0), "ours")
    assert adds
    assert adds["sentence"].endswith("theirs; no interval: too few people (5; 6 needed).")


def test_tests_of_few_people_each_are_drawn_as_wholes() -> None:
    table = uneven()
    rows = measure_protocol(every_test(table[table["tested_on"] != "large"], seed=0)).set_index(
        ["trained_on", "method"]
    )
    assert rows.loc[(MEAN, "theirs"), "auc_low"] < 0.5 < rows.loc[(MEAN, "theirs"), "auc_high"]


def test_a_seed_that_failed_in_one_fold_does_not_count() -> None:
    """It has scored some of the clips only: means and draws are of the clips that all have."""
    whole = scored("others", "all", [0, 1] * 4, [0.1, 0.9] * 4)
    parts = [whole, whole.assign(seed=1, score=1 - whole["score"]).iloc[:5], whole.assign(method="part").iloc[:6]]
    (test,) = every_test(pd.concat(parts, ignore_index=True), seed=0)
    assert (test.row["method"], test.row["seeds"], test.row["auc"], test.row["real"]) == ("m", 1, 1, 4)


def test_thresholds_are_the_best_on_val() -> None:
    val = pd.DataFrame(
        {"method": "m", "clip_id": list("abcd"), "label": [0, 0, 1, 1], "seed": 0, "score": [0.1, 0.3, 0.35, 0.9]}
    )
    assert val_thresholds(val) == {"m": 0.35}


def test_the_command_prints_both_averages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tests = every_test(uneven().replace({"ours": "search"}), seed=0)
    adds = what_is_added(tests, "search")
    found = pipeline.experiments.protocols.Outcome(measure_protocol(tests), adds, [])
    monkeypatch.setattr(pipeline.experiments.protocols, "run_protocol", lambda *_: found)
    (tmp_path / "params.yaml").write_text("{}")
    options = ["--params", str(tmp_path / "params.yaml"), "--work", str(tmp_path / "work")]
    told = CliRunner().invoke(app, ["protocol", "leave-one-source-out", *options])
    assert told.exit_code == 0, told.output
    assert "AUC, by pairs" in told.stdout
    assert "AUC, mean of tests" in told.stdout
    assert adds
    assert adds["sentence"] in told.stdout.replace("\n", " ")


def test_clips_that_the_split_left_out_are_told(
    workspace: Workspace, methods: list[np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    clip = replace(read_manifest(workspace.manifest)[0], clip_id="another", path="x.mp4", split="")
    write_unused(workspace.unused, [Unused(clip, "people of two splits")])
    try:
        run_protocol(workspace, small(), "people", protocol_of("people"))
    finally:
        workspace.unused.unlink()
    assert "protocol people: 1 clips take no part: split.kind people left them out" in capsys.readouterr().err
