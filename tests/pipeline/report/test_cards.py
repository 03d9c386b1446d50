from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from pipeline.report.cards import data_card, model_card
from pipeline.report.sections import breakdown, metric_table
from pipeline.report.verdict import protocols_in, unseen, verdict
from pipeline.runs.worth import warnings
from pipeline.workspace import Workspace
from tests.pipeline.report.results import HOSTILE_NAME, extras, write_protocol
from tests.pipeline.run_fixture import make_index, measured

MEANT = {"Model details", "Uses", "Bias, risks and limitations", "Training details", "Evaluation"}


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    metrics = measured(make_index(subjects=10), seeds=[0]) | extras()
    workspace = Workspace(tmp_path_factory.mktemp("cards"))
    write_protocol(workspace, "leave-one-source-out", [("one", 0.61)])
    tests = unseen(protocols_in(workspace.protocols))
    row = {"split": "test", "categories": [4], "clips": 8, "windows": 16, "subjects": 2, "seconds": 60.0, "used": 0.5}
    return {
        "metrics": metrics,
        "unseen": tests,
        "verdict": verdict(metrics, tests),
        "warnings": warnings(metrics),
        "versions": {"bmnas": "1"},
        "groups": breakdown(metrics, "per_group"),
        "methods": breakdown(metrics, "per_method"),
        "tables": {"clip": metric_table(metrics, "clip")},
        "parameters": "seed: 0\n",
        "commands": ["bmnas evaluate"],
        "digests": {"metrics.json": "ab"},
        "assumed": "",
        "people": {"shared": 0, "donors": 0, "unused": 3},
        "quarantine": {"total": 1, "reasons": [("faces", HOSTILE_NAME, 1)]},
        "data": {
            "categories": ["RVRA"],
            "rows": [row],
            "sources": [{"dataset": HOSTILE_NAME, "method": "a|b", "clips": 8, "people": 2}],
        },
    }


def tables_are_whole(card: str) -> None:
    """Every row of a table has as many cells as its head."""
    for block in re.findall(r"(?:^\|.*\n)+", card, flags=re.MULTILINE):
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(cells) == 1, block


def test_the_model_card_tells_the_metrics(facts: dict[str, Any]) -> None:
    card = model_card(facts)
    tables_are_whole(card)
    assert set(re.findall(r"^## (.*)$", card, flags=re.MULTILINE)) >= MEANT
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "bmnas"
    for system in facts["metrics"]["systems"].values():
        assert f"{system['clip']['auc']['value']:.3f}" in card
    for entry in facts["metrics"]["systems"]["fusion"]["per_method"].values():
        assert f"{100 * entry['apcer']['value']:.1f}" in card
    assert "0.610 (0.530 to 0.690)" in card
    assert "not measured: `bmnas protocol leave-one-method-out`" in card
    assert facts["metrics"]["small_set_reason"] in card


def test_the_data_card_counts(facts: dict[str, Any]) -> None:
    card = data_card(facts)
    tables_are_whole(card)
    assert "| test | 4 | 8 | 16 | 2 | 60 | 50.0 |" in card
    assert "3 more are in no split" in card
    assert "a\\|b" in card
    assert "> **leading silence.** leading silence tells them apart" in card


def test_hostile_names_are_text_in_cards(facts: dict[str, Any]) -> None:
    for card in (model_card(facts), data_card(facts)):
        assert "<" not in card.replace("p < 0.001", "")
    assert "&lt;script&gt;" in data_card(facts)
