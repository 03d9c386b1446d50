"""What the searched network adds: on tables where that is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.statistics.measure import measure
from pipeline.statistics.systems import OTHER_SOUND, PROBE, PROPERTIES
from tests.pipeline.run_fixture import make_clips, make_index, make_scores


def made(strength: float, control: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables of 100 test clips whose fusion and probe see so much of the label, by noise of their own."""
    index = make_index(subjects=125, windows=1)
    scores = make_scores(index, seeds=[0], networks=["fusion"])
    random, labels = np.random.default_rng(3), scores["label"].to_numpy()
    seen = scores["system"].map({"fusion": strength, PROBE: control}).fillna(0).to_numpy()
    return make_clips(index), scores.assign(score=1 / (1 + np.exp(-(labels * seen + random.normal(size=len(labels))))))


@pytest.fixture(scope="module")
def better() -> dict[str, Any]:
    return measure(*made(3.0, 0.7))


def test_the_strongest_control_is_what_the_network_is_held_against(better: dict[str, Any]) -> None:
    head, systems = better["headline"], better["systems"]
    assert head["adds"]["control"] == PROBE
    difference = systems["fusion"]["clip"]["auc"]["value"] - systems[PROBE]["clip"]["auc"]["value"]
    assert head["adds"]["difference"] == pytest.approx(difference)
    assert 0 < head["adds"]["low"] < difference < head["adds"]["high"]
    assert head["adds"]["p"] < 0.01
    auc = head["auc"]
    assert f"reaches an AUC of {auc['value']:.3f} (95 % interval {auc['low']:.3f} to" in head["sentence"]
    span = f"{head['adds']['low']:+.3f} to {head['adds']['high']:+.3f}"
    assert (
        f"It adds {difference:+.3f} to the strongest control, {PROBE} (95 % interval of the difference {span})"
        in (head["sentence"])
    ), "no number stands between an interval and what it is of"
    assert "it adds something" in head["sentence"]


def test_the_network_with_another_clips_sound_is_no_control() -> None:
    clips, scores = made(3.0, 0.7)
    mine = scores[scores["system"] == "fusion"]
    result = measure(clips, pd.concat([scores, mine.assign(system=OTHER_SOUND)], ignore_index=True))
    assert result["headline"]["adds"]["control"] == PROBE
    assert OTHER_SOUND in [row["system"] for row in result["comparisons"]], "what is lost without it is told"


def test_a_network_that_adds_nothing_is_told_so() -> None:
    head = measure(*made(1.0, 3.0))["headline"]
    assert head["adds"]["high"] < 0
    assert "it is worse" in head["sentence"]
    sentence = measure(*made(1.5, 1.5))["headline"]["sentence"]
    assert "chance alone could make that difference" in sentence


def test_all_comparisons_are_adjusted_for_their_number(better: dict[str, Any]) -> None:
    rows = better["comparisons"]
    assert [row["system"] for row in rows] == [name for name in better["systems"] if name != "fusion"]
    assert all(row["p"] <= row["p_holm"] <= 1 for row in rows)
    assert min(row["p_holm"] for row in rows) == pytest.approx(len(rows) * min(row["p"] for row in rows))


def test_the_worst_method_is_named(better: dict[str, Any]) -> None:
    methods = {name: of["auc"]["value"] for name, of in better["systems"]["fusion"]["per_method"].items()}
    worst = better["headline"]["worst_method"]
    assert worst["method"] == min(methods, key=lambda name: methods[name])
    assert worst["auc"]["value"] == min(methods.values())
    assert f"worst on {worst['method']}" in better["headline"]["sentence"]


def test_a_method_of_one_clip_is_no_worst_one() -> None:
    clips, scores = made(3.0, 0.7)
    rare = "s04-FVRA"
    clips = clips.assign(method=clips["method"].where(clips["clip_id"] != rare, "rare"))
    found = measure(clips, scores.assign(score=scores["score"].where(scores["clip_id"] != rare, 0.0)))
    assert found["systems"]["fusion"]["per_method"]["rare"]["auc"]["value"] == 0
    worst = found["headline"]["worst_method"]
    assert worst is None or worst["method"] != "rare"
    only = clips.assign(method=clips["method"].where(clips["label"] == 0, "one"))
    assert measure(only, scores)["headline"]["worst_method"] is None, "of one, none is the worst"


def test_on_clips_of_equal_properties_only_the_network_tells() -> None:
    clips, scores = made(3.0, 0.0)
    leaking = scores["system"] == PROPERTIES
    random = np.random.default_rng(0).normal(size=len(scores))
    told = 1 / (1 + np.exp(-(1.2 * scores["label"] + random)))
    scores = scores.assign(score=scores["score"].where(~leaking, told))
    test = scores[leaking & (scores["split"] == "test")]
    found = measure(clips, scores)["matched"]
    assert found["of"] == 100
    assert 20 <= found["clips"] < 60
    assert roc_auc_score(test["label"], test["score"]) > 0.7
    assert found["auc"][PROPERTIES]["value"] < 0.6
    assert found["auc"]["fusion"]["low"] > 0.9


def test_systems_of_other_clips_cannot_be_compared() -> None:
    clips, scores = made(1.0, 1.0)
    lacking = scores[(scores["system"] != PROBE) | (scores["clip_id"] != "s04-RVRA")]
    with pytest.raises(ValueError, match=f"{PROBE} are of other test clips than those of fusion"):
        measure(clips, lacking)
