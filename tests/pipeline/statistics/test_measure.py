from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.statistics.measure import audit_shortcuts, clips, curves, measure
from tests.pipeline.run_fixture import make_index, make_scores


@pytest.fixture(scope="module")
def index() -> pd.DataFrame:
    return make_index(subjects=40)


@pytest.fixture(scope="module")
def scores(index: pd.DataFrame) -> pd.DataFrame:
    return make_scores(index)


@pytest.fixture(scope="module")
def result(index: pd.DataFrame, scores: pd.DataFrame) -> dict[str, Any]:
    return measure(index, scores)


def test_result_is_json_without_nan(result: dict[str, Any]) -> None:
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_clip_score_is_the_mean_over_its_windows(result: dict[str, Any], scores: pd.DataFrame) -> None:
    per_seed = []
    for seed in (0, 1, 2):
        rows = scores[(scores["network"] == "fusion") & (scores["seed"] == seed)]
        clip = rows.groupby("clip_id").agg(score=("score", "mean"), label=("label", "first"))
        per_seed.append(roc_auc_score(clip["label"], clip["score"]))
        window_auc = result["networks"]["fusion"]["window"]["auc"]["per_seed"][seed]
        assert window_auc == pytest.approx(roc_auc_score(rows["label"], rows["score"]))
    found = result["networks"]["fusion"]["clip"]["auc"]
    assert found["per_seed"] == pytest.approx(per_seed)
    assert found["mean"] == pytest.approx(np.mean(per_seed))
    assert found["std"] == pytest.approx(np.std(per_seed, ddof=1))


def test_row_order_does_not_matter(index: pd.DataFrame, scores: pd.DataFrame, result: dict[str, Any]) -> None:
    shuffled = measure(index, scores.sample(frac=1, random_state=0))
    for name, network in result["networks"].items():
        other = shuffled["networks"][name]
        assert other["clip"]["eer"]["per_seed"] == pytest.approx(network["clip"]["eer"]["per_seed"])
        assert other["per_method"]["wav2lip"]["auc"]["mean"] == pytest.approx(
            network["per_method"]["wav2lip"]["auc"]["mean"]
        )


def test_summary_is_flat_and_repeats_the_clip_level(result: dict[str, Any]) -> None:
    assert list(result["summary"]) == ["fusion", "visual", "audio"]
    for name, summary in result["summary"].items():
        clip = result["networks"][name]["clip"]
        assert summary["auc"] == clip["auc"]["mean"]
        assert summary["auc_std"] == clip["auc"]["std"]
        assert summary["eer"] == clip["eer"]["mean"]
        assert all(isinstance(value, float) for value in summary.values())


def test_interval_surrounds_the_mean_and_names_its_subjects(result: dict[str, Any]) -> None:
    for network in result["networks"].values():
        interval = network["clip"]["auc_interval"]
        assert interval["low"] <= network["clip"]["auc"]["mean"] <= interval["high"]
        assert interval["subjects"] == 8
        assert interval["resamples"] == 1000


def test_categories_are_held_against_their_real_twin(scores: pd.DataFrame, result: dict[str, Any]) -> None:
    table = result["networks"]["visual"]["per_category"]
    assert list(table) == ["RVFA", "FVRA", "FVFA"]
    assert [table[name]["against"] for name in table] == ["RVRA"] * 3
    assert table["FVRA"]["n_fake"] == table["FVRA"]["n_real"] == 8
    rows = scores[(scores["network"] == "visual") & (scores["seed"] == 1)]
    clip = rows.groupby("clip_id").agg(score=("score", "mean"), category=("category", "first"))
    clip = clip[clip["category"].isin(["RVRA", "FVRA"])]
    expected = roc_auc_score(clip["category"] == "FVRA", clip["score"])
    assert table["FVRA"]["auc"]["per_seed"][1] == pytest.approx(expected)
    assert table["RVFA"]["auc"]["mean"] < 0.75 < table["FVRA"]["auc"]["mean"]  # it does not hear


def test_mute_fakes_are_held_against_mute_reals() -> None:
    index = make_index(categories=("RVRA", "FVFA", "RV-", "FV-"))
    table = measure(index, make_scores(index))["networks"]["visual"]["per_category"]
    assert table["FV-"]["against"] == "RV-"
    assert table["FV-"]["n_real"] == 4
    without = make_index(categories=("RVRA", "FVFA", "FV-"))
    found = measure(without, make_scores(without))["networks"]["visual"]["per_category"]["FV-"]
    assert found["auc"]["mean"] is None
    assert found["auc"]["reason"] == "one class only: no real clips"


def test_methods_are_held_against_all_reals(result: dict[str, Any]) -> None:
    table = result["networks"]["fusion"]["per_method"]
    assert list(table) == ["faceswap", "rtvc", "wav2lip"]  # "real" is no attack
    assert all((entry["n_fake"], entry["n_real"]) == (8, 8) for entry in table.values())


def test_one_class_gives_null_and_a_reason() -> None:
    index = make_index(categories=("FVRA", "FVFA"))
    result = measure(index, make_scores(index))
    clip = result["networks"]["fusion"]["clip"]
    assert clip["auc"] == {
        "mean": None,
        "std": None,
        "per_seed": [None, None, None],
        "reason": "one class only: no real clips",
    }
    assert clip["auc_interval"]["low"] is None
    assert clip["auc_interval"]["reason"] == "one class only: no real clips"
    assert result["summary"]["fusion"]["auc"] is None
    assert result["shortcuts"]["chance"]["test"] is None
    json.dumps(result, allow_nan=False)
    roc, det = curves(make_scores(index))
    assert list(roc) == ["network", "fpr", "tpr"]
    assert roc.empty
    assert det.empty


def test_one_seed_has_no_spread() -> None:
    index = make_index()
    found = measure(index, make_scores(index, seeds=[7]))["networks"]["fusion"]
    assert found["seeds"] == [7]
    assert found["clip"]["auc"]["std"] is None
    assert found["clip"]["auc"]["mean"] == found["seed_average"]["auc"]["value"]


@pytest.mark.parametrize(("subjects", "windows", "small"), [(40, 1, True), (95, 1, True), (125, 1, False)])
def test_small_sets_are_called_small(subjects: int, windows: int, small: bool) -> None:
    index = make_index(subjects=subjects, windows=windows)  # a fifth of the subjects, four clips each
    result = measure(index, make_scores(index, seeds=[0]))
    assert result["small_set"] is small
    assert (result["small_set_reason"] is None) is not small
    if small:
        assert f"{subjects // 5} subjects" in result["small_set_reason"]


def test_many_clips_of_few_people_are_a_small_set() -> None:
    index = make_index(subjects=125, windows=1)
    index["subject_id"] = "p" + (index["subject_id"].str[1:].astype(int) // 10).astype(str)
    result = measure(index, make_scores(index, seeds=[0]))
    assert result["counts"]["clips"] == 100
    assert result["small_set"]
    assert "100 clips of 13 subjects" in result["small_set_reason"]


def test_counts(result: dict[str, Any]) -> None:
    assert result["counts"] == {"windows": 64, "clips": 32, "subjects": 8, "real_clips": 8, "fake_clips": 24}


def test_a_clip_is_what_it_is_called_not_what_its_windows_are(index: pd.DataFrame, scores: pd.DataFrame) -> None:
    real = {"label": 0, "category": "RVRA"}
    table = clips(index.assign(**real))
    assert (table["category"] == table.index.str[-4:]).all()
    assert (table["label"] == (table["category"] != "RVRA")).all()
    roc, det = curves(scores.assign(**real))
    for made, whole in zip((roc, det), curves(scores), strict=True):
        pd.testing.assert_frame_equal(made, whole)


def audit(index: pd.DataFrame, network_auc: float | None = 0.9) -> tuple[dict[str, Any], dict[str, Any]]:
    result = audit_shortcuts(clips(index[index["split"] == "test"]), clips(index), network_auc)
    return result, {entry["property"]: entry for entry in result["properties"]}


def test_clean_data_raise_no_alarm(index: pd.DataFrame) -> None:
    result, found = audit(index)
    assert result["warning"] is None
    assert found["width_px"]["test"]["auc"] == found["fps"]["all"]["auc"] == 0.5  # constant
    assert 0.5 < result["chance"]["all"] < result["chance"]["test"] < 0.75


@pytest.mark.parametrize("sign", [1, -1])
def test_a_leaking_property_is_loud_whichever_way_it_points(index: pd.DataFrame, sign: int) -> None:
    leaking = index.assign(leading_silence_s=sign * (index["label"] + 0.1 * index["leading_silence_s"]))
    result, found = audit(leaking)
    assert found["leading_silence_s"]["test"]["auc"] == found["leading_silence_s"]["all"]["auc"] == 1.0
    assert found["leading_silence_s"]["suspicious"]
    assert found["leading_silence_s"]["beats_network"]
    assert not found["duration_s"]["suspicious"]
    assert "leading_silence_s alone separates" in result["warning"]
    assert "at least as well" in result["warning"]


def test_a_leak_outside_the_test_split_is_found(index: pd.DataFrame) -> None:
    train = (index["split"] == "train") & (index["label"] == 1)
    result, found = audit(index.assign(fps=index["fps"].mask(train, 30.0)))
    assert found["fps"]["test"]["auc"] == 0.5
    assert found["fps"]["all"]["auc"] > 0.7
    assert found["fps"]["suspicious"]
    assert not found["fps"]["beats_network"]
    assert "fps" in result["warning"]


def test_missing_values_are_a_property_too(index: pd.DataFrame) -> None:
    fakes_lack_it = index.assign(loudness_db=index["loudness_db"].where(index["label"] == 0))
    _, found = audit(fakes_lack_it)
    assert found["loudness_db"]["test"] == {"auc": 1.0, "known": 8, "clips": 32, "reason": None}
    _, found = audit(index.assign(loudness_db=np.nan))
    assert found["loudness_db"]["test"] == {"auc": None, "known": 0, "clips": 32, "reason": "known for no clip"}
    assert not found["loudness_db"]["suspicious"]


def test_a_weak_network_is_beaten(index: pd.DataFrame) -> None:
    result, found = audit(index, network_auc=0.4)
    assert all(entry["beats_network"] for entry in found.values())
    assert "alone does at least as well" in result["warning"]
    assert not any(entry["beats_network"] for entry in audit(index, network_auc=None)[1].values())


def test_curves_are_monotone_and_thin() -> None:
    index = make_index(subjects=2500, windows=1)
    roc, det = curves(make_scores(index, seeds=[0, 1]))
    for name, group in roc.groupby("network"):
        assert 100 < len(group) <= 500
        assert group["fpr"].is_monotonic_increasing
        assert group["tpr"].is_monotonic_increasing
        other = det[det["network"] == name]
        assert other["fnr"].is_monotonic_decreasing
        assert other["fnr"].to_numpy() == pytest.approx(1 - group["tpr"].to_numpy())
    assert list(roc["network"].unique()) == ["fusion", "visual", "audio"]
