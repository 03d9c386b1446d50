"""The shortcut audit on tables of clips whose properties leak, or do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.statistics.shortcuts import audit_shortcuts
from pipeline.statistics.tables import clips
from tests.pipeline.run_fixture import make_index


@pytest.fixture(scope="module")
def index() -> pd.DataFrame:
    return make_index(subjects=40)


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
    assert "Leading silence alone separates" in result["warning"]
    assert "at least as well" in result["warning"]


def test_a_leak_outside_the_test_split_is_found(index: pd.DataFrame) -> None:
    train = (index["split"] == "train") & (index["label"] == 1)
    result, found = audit(index.assign(fps=index["fps"].mask(train, 30.0)))
    assert found["fps"]["test"]["auc"] == 0.5
    assert found["fps"]["all"]["auc"] > 0.7
    assert found["fps"]["suspicious"]
    assert not found["fps"]["beats_network"]
    assert "Frame rate alone" in result["warning"]


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
