"""What a detector is worth, in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cache_schemas.files import write_json
from cache_schemas.run import RunFileError
from pipeline.report.verdict import protocols_in, unseen, verdict
from pipeline.statistics.means import MEAN, PAIRS
from pipeline.workspace import Workspace
from tests.pipeline.report.results import value, write_protocol

HEAD = {"auc": value(0.9), "adds": None, "worst_method": None}


def found_of(workspace: Workspace) -> list[dict[str, Any]]:
    return unseen(protocols_in(workspace.protocols))


def test_the_verdict_tells_the_unseen_or_that_it_is_not_known(tmp_path: Any) -> None:
    workspace = Workspace(tmp_path)
    metrics = {"headline": HEAD}
    told = verdict(metrics, found_of(workspace))
    assert told.endswith(
        "with an AUC (95 % interval) of 0.900 (0.850 to 0.950) on other people of the sources and methods that it "
        "knows; what it reaches on sources never seen or methods of forgery never seen was not measured."
    )
    write_protocol(workspace, "leave-one-source-out", [("one", 0.7), ("two", 0.5), (PAIRS, 0.6), (MEAN, 0.7)])
    write_protocol(workspace, "leave-one-method-out", [("swap", 0.8)])
    tests = found_of(workspace)
    told = verdict(metrics, [tests[0], tests[1] | {"adds": None}])
    assert (
        "with an AUC (95 % interval) of 0.600 (0.520 to 0.680) on sources never seen, 0.800 (0.720 to 0.880) on "
        "methods of forgery never seen and of 0.900 (0.850 to 0.950) on other people of the sources and "
        "methods that it knows."
    ) in told
    assert told.endswith(
        "What it adds to the strongest control on sources never seen has another sign by each way of counting: "
        "\N{MINUS SIGN}0.020 (\N{MINUS SIGN}0.100 to +0.050) where every pair of clips counts alike, "
        "+0.010 (\N{MINUS SIGN}0.060 to +0.070) where every test does."
    )
    undefined = {"value": None, "reason": "one class only: no real clips"}
    assert verdict({"headline": {"auc": undefined}}, []) == ("Nothing can be said: one class only: no real clips")


def test_the_unseen_are_the_pairs_the_mean_of_the_tests_and_the_worst_of_them(tmp_path: Any) -> None:
    workspace = Workspace(tmp_path)
    write_protocol(workspace, "leave-one-source-out", [("one", 0.7), ("two", 0.5), (PAIRS, 0.6), (MEAN, 0.65)])
    source, method = found_of(workspace)
    assert (source["auc"]["value"], source["mean"]["value"], source["tests"]) == (0.6, 0.65, "2 tests")
    assert (source["worst"]["name"], source["worst"]["auc"]["value"]) == ("two", 0.5)
    assert method["auc"] is None


def test_a_test_of_few_clips_is_no_worst_one(tmp_path: Any) -> None:
    workspace = Workspace(tmp_path)
    write_protocol(workspace, "leave-one-source-out", [("one", 0.7), ("two", 0.5)])
    path = workspace.protocols / "leave-one-source-out" / "protocol.json"
    told = json.loads(path.read_text())
    next(row for row in told["rows"] if row["tested_on"] == "two")["real"] = 4
    write_json(path, told)
    assert found_of(workspace)[0]["worst"]["name"] == "one"


def test_a_protocol_of_ones_own_tells_the_unseen_too(tmp_path: Any) -> None:
    workspace = Workspace(tmp_path)
    write_protocol(workspace, "common methods", [("swap", 0.7)], left_out="method")
    assert [entry["name"] for entry in found_of(workspace)] == ["leave-one-source-out", "common methods"]
    write_protocol(workspace, "leave-one-method-out", [("swap", 0.8)])
    assert found_of(workspace)[1]["auc"]["value"] == 0.8


def test_protocols_stand_in_order_the_unseen_first(tmp_path: Any) -> None:
    workspace = Workspace(tmp_path)
    for name in ("another", "people", "leave-one-source-out", "leave-one-method-out"):
        write_protocol(workspace, name, [("all", 0.9)])
    names = [protocol["name"] for protocol in protocols_in(workspace.protocols)]
    assert names == ["leave-one-source-out", "leave-one-method-out", "another", "people"]


@pytest.mark.parametrize("content", ['{"rows": [', "[]", "null", "\x00"])
def test_a_damaged_file_of_another_command_is_named(tmp_path: Path, content: str) -> None:
    """What a killed machine, or a hand, left of it: one message, which says which file and the way out."""
    path = tmp_path / "people" / "protocol.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(
        RunFileError, match=r"protocol\.json cannot be read as a JSON object: .*run `bmnas protocol` again"
    ):
        protocols_in(tmp_path)
