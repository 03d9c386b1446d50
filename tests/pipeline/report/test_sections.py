from __future__ import annotations

from typing import Any

import pytest

from pipeline.report import sections
from pipeline.report.drawings import heat_map_of
from pipeline.workspace import Workspace
from tests.pipeline.report.results import extras, value


def test_a_protocol_is_drawn_by_method_or_where_a_training_has_several_tests_by_test(tmp_path: Any) -> None:
    rows = [
        {"trained_on": trained, "tested_on": tested, "method": method, "auc": 0.7}
        | {"auc_low": None, "auc_high": None, "auc_reason": "no interval: too few people (2; 6 needed)"}
        for trained in ("a", "b")
        for tested in ("c", "d")
        for method in ("search", "probe")
    ]
    matrix = heat_map_of({"name": "cross", "rows": rows}, 0)
    assert ">d<" in matrix
    assert ">probe<" not in matrix
    methods = heat_map_of({"name": "one", "rows": [row for row in rows if row["tested_on"] == "c"]}, 0)
    assert ">probe<" in methods
    assert ">c<" not in methods


def test_differences_have_their_interval_or_their_reason() -> None:
    row = {"difference": -0.1, "low": -0.2, "high": 0.0, "p_holm": 0.04, "reason": None}
    told = sections.difference(row)
    assert told == "\N{MINUS SIGN}0.100 <small>\N{MINUS SIGN}0.200 to 0.000</small><small>p = 0.040</small>"
    assert "no interval: <" not in sections.difference(row | {"low": None, "reason": "no interval: <one>"})
    assert "one class" in sections.difference({"difference": None, "reason": "one class"})


def test_what_was_not_measured_is_none(tmp_path: Any) -> None:
    nothing = {"evidence": None, "localisation": None}
    assert sections.evidence(nothing) is None
    assert sections.localisation(nothing) is None
    assert sections.robustness(Workspace(tmp_path)) is None
    undefined = {"evidence": {"costs": {}, "systems": {"fusion": {"reason": "val: one class only"}}}}
    assert sections.evidence(undefined) is None


def test_localisation_stands_beside_what_windows_allow() -> None:
    ap, ar = {"0.5": value(0.3), "mean": value(0.2)}, {"5": value(0.4)}
    oracle = {"ap": {"0.5": 0.6, "mean": 0.4}, "ar": {"5": 0.7}}
    found = sections.localisation({"localisation": {"ap": ap, "ar": ar, "oracle": oracle}})
    assert found is not None
    assert found["rows"] == [
        ("AP at IoU 0.5", value(0.3), 0.6),
        ("AP at IoU mean", value(0.2), 0.4),
        ("AR of 5", value(0.4), 0.7),
    ]


@pytest.mark.parametrize("network", ["fusion", "visual"])
def test_evidence_is_that_of_the_networks_that_have_some(network: str) -> None:
    parts = extras()["evidence"]
    own = parts["systems"]["fusion"]
    found = sections.evidence({"evidence": {**parts, "systems": {network: own, "audio": {"reason": "none"}}}})
    assert found is not None
    assert found["networks"] == [network]
    assert found["clips"] == [(16, 11)]
    assert found["withheld"] == [("face_share", [{"clips": 5, "real": 2, "fake": 3}])]
