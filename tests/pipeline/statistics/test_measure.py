"""metrics.json from made-up tables: what each number is, and what is null and why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from pipeline.statistics.curves import curves
from pipeline.statistics.measure import measure
from pipeline.statistics.metrics import best_threshold
from pipeline.statistics.tables import clips
from pipeline.statistics.values import METRICS
from tests.pipeline.run_fixture import make_clips, make_index, make_scores, measured


@pytest.fixture(scope="module")
def index() -> pd.DataFrame:
    return make_index(subjects=40)


@pytest.fixture(scope="module")
def scores(index: pd.DataFrame) -> pd.DataFrame:
    return make_scores(index)


@pytest.fixture(scope="module")
def result(index: pd.DataFrame, scores: pd.DataFrame) -> dict[str, Any]:
    return measure(make_clips(index), scores)


def by_clip(scores: pd.DataFrame, system: str, split: str = "test") -> pd.DataFrame:
    """One system's clips: the mean score over windows and seeds, by an independent road."""
    rows = scores[(scores["system"] == system) & (scores["split"] == split)]
    of = rows.groupby(["clip_id", "seed"])["score"].mean().groupby("clip_id").mean().to_frame()
    return of.join(rows.drop_duplicates("clip_id").set_index("clip_id")[["label", "category", "method", "subject_id"]])


def test_result_is_json_without_nan(result: dict[str, Any]) -> None:
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_values_are_of_the_seeds_mean_score_of_test_clips(result: dict[str, Any], scores: pd.DataFrame) -> None:
    clip = by_clip(scores, "fusion")
    found = result["systems"]["fusion"]["clip"]
    assert set(found) == set(METRICS)
    assert found["auc"]["value"] == pytest.approx(roc_auc_score(clip["label"], clip["score"]))
    assert found["average_precision"]["value"] == pytest.approx(average_precision_score(clip["label"], clip["score"]))
    assert found["average_precision"]["prevalence"] == 0.75
    for metric in METRICS:
        assert found[metric]["low"] - 1e-9 <= found[metric]["value"] <= found[metric]["high"] + 1e-9, metric
    windows = scores[(scores["system"] == "fusion") & (scores["split"] == "test")]
    mean = windows.groupby(["clip_id", "window"]).agg(score=("score", "mean"), label=("label", "first"))
    assert result["systems"]["fusion"]["window"]["auc"]["value"] == pytest.approx(
        roc_auc_score(mean["label"], mean["score"])
    )


def test_the_threshold_is_that_of_val(result: dict[str, Any], scores: pd.DataFrame) -> None:
    val, test = by_clip(scores, "fusion", "val"), by_clip(scores, "fusion")
    found = result["systems"]["fusion"]
    assert found["threshold"] == pytest.approx(best_threshold(val["label"], val["score"]))
    missed = (test.loc[test["label"] == 1, "score"] < found["threshold"]).mean()
    accused = (test.loc[test["label"] == 0, "score"] >= found["threshold"]).mean()
    assert (found["clip"]["apcer"]["value"], found["clip"]["bpcer"]["value"]) == pytest.approx((missed, accused))
    assert found["clip"]["balanced_accuracy"]["value"] == pytest.approx(1 - (missed + accused) / 2)


def test_nothing_but_val_decides_what_is_chosen(index: pd.DataFrame, scores: pd.DataFrame) -> None:
    """Other test scores change no threshold; other val scores change no ranking."""
    scores = scores[(scores["system"] == "fusion") & (scores["seed"] == 0)]
    for split, same, other in (("test", "threshold", "auc"), ("val", "auc", "threshold")):
        turned = scores.assign(score=scores["score"].where(scores["split"] != split, 1 - scores["score"]))
        found = [measure(make_clips(index), of)["systems"]["fusion"] for of in (scores, turned)]
        values = [{"threshold": of["threshold"], "auc": of["clip"]["auc"]["value"]} for of in found]
        assert values[0][same] == values[1][same]
        assert values[0][other] != values[1][other]


def test_single_networks_are_measured_each_for_itself(result: dict[str, Any], scores: pd.DataFrame) -> None:
    per_seed = []
    for seed in (0, 1, 2):
        clip = by_clip(scores[scores["seed"] == seed], "fusion")
        per_seed.append(roc_auc_score(clip["label"], clip["score"]))
    found = result["systems"]["fusion"]["one_network"]["auc"]
    assert found["per_seed"] == pytest.approx(per_seed)
    assert found["mean"] == pytest.approx(np.mean(per_seed))
    assert found["std"] == pytest.approx(np.std(per_seed, ddof=1))
    assert found["low"] < found["mean"] < found["high"]


def test_one_seed_has_no_spread() -> None:
    found = measured(make_index(), seeds=[7])["systems"]["fusion"]
    assert found["seeds"] == [7]
    assert found["one_network"]["auc"]["std"] is None
    assert found["one_network"]["auc"]["mean"] == found["clip"]["auc"]["value"]


def test_row_order_does_not_matter(index: pd.DataFrame, scores: pd.DataFrame, result: dict[str, Any]) -> None:
    shuffled = measure(make_clips(index).sample(frac=1, random_state=1), scores.sample(frac=1, random_state=0))
    assert shuffled["systems"] == result["systems"]


def test_systems_are_named_with_what_they_are(result: dict[str, Any]) -> None:
    kinds = {name: of["kind"] for name, of in result["systems"].items()}
    assert list(kinds.items()) == [
        ("fusion", "network"), ("visual", "network"), ("audio", "network"), ("properties, all together", "control"),
        ("logistic regression, all layers", "control"),
    ]  # fmt: skip
    assert all(of["what"] for of in result["systems"].values())


def test_ways_to_pool_windows(result: dict[str, Any], scores: pd.DataFrame) -> None:
    found = result["systems"]["fusion"]["pooling"]
    rows = scores[(scores["system"] == "fusion") & (scores["split"] == "test")]
    highest = rows.groupby(["clip_id", "seed"])["score"].max().groupby("clip_id").mean()
    labels = by_clip(scores, "fusion")["label"]
    assert found["max"]["value"] == pytest.approx(roc_auc_score(labels, highest.loc[labels.index]))
    assert found["mean"] == result["systems"]["fusion"]["clip"]["auc"]
    assert list(found) == ["mean", "max", "log-sum-exp", "top-3"]


def test_summary_is_flat_and_repeats_the_clip_level(result: dict[str, Any]) -> None:
    assert len(result["summary"]) == 4, "the networks and the strongest control"
    for name, summary in result["summary"].items():
        clip = result["systems"][name]["clip"]
        assert summary["auc"] == clip["auc"]["value"]
        assert summary["eer"] == clip["eer"]["value"]
        assert summary["auc_one_network"] == result["systems"][name]["one_network"]["auc"]["mean"]
        assert all(isinstance(value, float) for value in summary.values())


def test_categories_are_held_against_their_real_twin(scores: pd.DataFrame, result: dict[str, Any]) -> None:
    table = result["systems"]["visual"]["per_category"]
    assert list(table) == ["RVFA", "FVRA", "FVFA"]
    assert [table[name]["against"] for name in table] == ["RVRA"] * 3
    assert table["FVRA"]["n_fake"] == table["FVRA"]["n_real"] == 8
    clip = by_clip(scores, "visual")
    clip = clip[clip["category"].isin(["RVRA", "FVRA"])]
    assert table["FVRA"]["auc"]["value"] == pytest.approx(roc_auc_score(clip["category"] == "FVRA", clip["score"]))
    assert table["FVRA"]["auc"]["low"] <= table["FVRA"]["auc"]["value"] <= table["FVRA"]["auc"]["high"]
    assert table["RVFA"]["auc"]["value"] < 0.75 < table["FVRA"]["auc"]["value"]  # it does not hear


def test_mute_fakes_are_held_against_mute_reals() -> None:
    table = measured(make_index(categories=("RVRA", "FVFA", "RV-", "FV-")))["systems"]["visual"]["per_category"]
    assert table["FV-"]["against"] == "RV-"
    assert table["FV-"]["n_real"] == 6
    found = measured(make_index(categories=("RVRA", "FVFA", "FV-")))["systems"]["visual"]["per_category"]["FV-"]
    assert found["auc"]["value"] is None
    assert found["auc"]["reason"] == "one class only: no real clips"


def test_methods_are_held_against_all_reals(result: dict[str, Any], scores: pd.DataFrame) -> None:
    found = result["systems"]["fusion"]
    table = found["per_method"]
    assert list(table) == ["faceswap", "rtvc", "wav2lip"]  # "real" is no attack
    assert all((entry["n_fake"], entry["n_real"]) == (8, 8) for entry in table.values())
    clip = by_clip(scores, "fusion")
    missed = clip.loc[clip["method"] == "rtvc", "score"] < found["threshold"]
    assert table["rtvc"]["apcer"]["value"] == pytest.approx(missed.mean())


def test_groups_and_sources_are_held_against_their_own_reals(result: dict[str, Any], index: pd.DataFrame) -> None:
    found = result["systems"]["fusion"]
    assert {name: of["n_real"] + of["n_fake"] for name, of in found["per_group"].items()} == {"others": 16, "some": 16}
    assert list(found["per_source"]) == ["made-up"]
    assert found["per_source"]["made-up"]["auc"]["value"] == found["clip"]["auc"]["value"]


def test_one_class_gives_null_and_a_reason() -> None:
    index = make_index(categories=("FVRA", "FVFA"))
    result = measured(index)
    clip = result["systems"]["fusion"]["clip"]
    assert clip["auc"] == {"value": None, "low": None, "high": None, "reason": "one class only: no real clips"}
    assert clip["balanced_accuracy"]["reason"] == "val: one class only: no real clips"
    assert result["systems"]["fusion"]["one_network"]["auc"]["per_seed"] == [None, None, None]
    assert "nothing can be said: one class only" in result["headline"]["sentence"]
    assert result["headline"]["adds"] is None
    assert result["summary"]["fusion"] == {}
    assert result["shortcuts"]["chance"]["test"] is None
    json.dumps(result, allow_nan=False)
    roc, det = curves(make_clips(index), make_scores(index))
    assert list(roc) == ["system", "fpr", "tpr"]
    assert roc.empty
    assert det.empty


def test_without_val_only_what_needs_none_is_known() -> None:
    index = make_index()
    found = measured(index[index["split"] != "val"])["systems"]["fusion"]
    assert found["threshold"] is None
    assert found["clip"]["auc"]["low"] is not None
    assert found["clip"]["cllr"] == {"value": None, "low": None, "high": None, "reason": "val: no clips"}


def test_of_few_people_nothing_is_said_but_the_points() -> None:
    """Two people's clips give points, and neither interval nor p, nor a word that would need one."""
    found = measured(make_index(subjects=10))
    assert found["systems"]["fusion"]["clip"]["auc"]["value"] is not None
    assert found["systems"]["fusion"]["clip"]["auc"]["reason"] == "no interval: too few people (2; 6 needed)"
    assert not [(at, x) for at, x in leaves(found) if at[-1] in ("low", "high", "p", "p_holm") and x is not None]
    assert not any(isinstance(x, str) and ("only" in x or "draws" in x) for _, x in leaves(found["systems"]))
    sentence = found["headline"]["sentence"]
    assert "It adds" in sentence
    assert sentence.count("; no interval: too few people (2; 6 needed).") == 2
    assert not any(word in sentence for word in ("worse", "something", "chance", "95 %"))


def leaves(content: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, value) of everything in a JSON file."""
    if isinstance(content, dict | list):
        for key, of in content.items() if isinstance(content, dict) else enumerate(content):
            yield from leaves(of, (*at, str(key)))
    else:
        yield at, content


def test_a_part_of_few_people_has_no_interval_where_the_whole_has_one() -> None:
    index = make_index()
    rare = index["subject_id"].isin(["s04", "s09"])
    found = measured(index.assign(dataset=np.where(rare, "small", "large")))["systems"]["fusion"]
    assert found["clip"]["auc"]["low"] is not None
    small = found["per_source"]["small"]["auc"]
    assert small["value"] is not None
    assert (small["low"], small["reason"]) == (None, "no interval: too few people (2; 6 needed)")
    rare = index["method"].where((index["method"] != "wav2lip") | ~rare, "rare")
    of_method = measured(index.assign(method=rare))["systems"]["fusion"]["per_method"]["rare"]
    assert of_method["apcer"]["value"] is not None
    assert of_method["apcer"]["reason"] == "no interval: too few people with fake clips (2; 6 needed)"


@pytest.mark.parametrize(("subjects", "windows", "small"), [(40, 1, True), (95, 1, True), (125, 1, False)])
def test_small_sets_are_called_small(subjects: int, windows: int, small: bool) -> None:
    index = make_index(subjects=subjects, windows=windows)  # a fifth of the subjects, four clips each
    result = measured(index, seeds=[0])
    assert result["small_set"] is small
    assert (result["small_set_reason"] is None) is not small
    if small:
        assert f"{subjects // 5} subjects" in result["small_set_reason"]


def test_many_clips_of_few_people_are_a_small_set() -> None:
    index = make_index(subjects=125, windows=1)
    index["subject_id"] = "p" + (index["subject_id"].str[1:].astype(int) // 10).astype(str)
    result = measured(index, seeds=[0])
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
    of_clips = make_clips(index.assign(**real))
    for made, whole in zip(curves(of_clips, scores.assign(**real)), curves(make_clips(index), scores), strict=True):
        pd.testing.assert_frame_equal(made, whole)


def test_curves_are_monotone_and_thin() -> None:
    index = make_index(subjects=2500, windows=1)
    roc, det = curves(make_clips(index), make_scores(index, seeds=[0, 1]))
    for name, group in roc.groupby("system"):
        assert 100 < len(group) <= 500
        assert group["fpr"].is_monotonic_increasing
        assert group["tpr"].is_monotonic_increasing
        other = det[det["system"] == name]
        assert other["fnr"].is_monotonic_decreasing
        assert other["fnr"].to_numpy() == pytest.approx(1 - group["tpr"].to_numpy())
    assert list(roc["system"].unique())[:3] == ["fusion", "visual", "audio"]
