from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from cache_schemas.run import history_of
from pipeline.figures.curves import curves_svg, history_svg, probabilities_svg


def entry(network: str = "fusion", seed: int = 0, **columns: Any) -> dict[str, Any]:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return {"network": network, "curves": [{"epoch": e, **row} for e, row in enumerate(rows)], "best_epoch": seed}


def texts(svg: str) -> list[str]:
    return re.findall(r"<text [^>]*>([^<]*)</text>", svg)


def test_plots_are_inline_deterministic_and_leave_no_trace() -> None:
    before = dict(mpl.rcParams)
    first = curves_svg([entry(train_loss=[0.7, 0.5])], "search")
    assert first == curves_svg([entry(train_loss=[0.7, 0.5])], "search")
    assert first.startswith("<svg")
    assert "http" not in first
    assert "metadata" not in first
    assert dict(mpl.rcParams) == before
    ElementTree.fromstring(first.replace("xlink:href", "href"))  # noqa: S314 - well-formed


def test_ids_differ_between_plots_and_all_references_resolve() -> None:
    svgs = [curves_svg([entry(train_loss=[0.7, 0.5])], key) for key in ("search", "retrain")]
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in svgs]
    assert not ids[0] & ids[1]
    for svg, known in zip(svgs, ids, strict=True):
        used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
        assert used
        assert used <= known


def test_colours_come_from_the_page() -> None:
    svg = curves_svg([entry(name, train_loss=[0.7, 0.5]) for name in ("fusion", "visual", "audio")], "search")
    assert not re.search(r"#[0-9a-f]{6}\b", svg)
    for name in ("fusion", "visual", "audio"):
        assert f"stroke: var(--{name})" in svg
        assert name in texts(svg)


def test_panels_show_what_was_recorded_and_skip_gaps() -> None:
    svg = curves_svg(
        [
            entry("fusion", val_auc=[0.5, 0.6, 0.7], arch_grad_norm=[None, 1e-3, 1e-4]),
            entry("audio", val_auc=[0.5], arch_grad_norm=[None]),
        ],
        "search",
    )
    shown = texts(svg)
    assert "validation AUC" in shown
    assert "architecture gradient norm" in shown
    assert "training loss" not in shown
    assert {"fusion", "audio"} <= set(shown)
    assert "visual" not in shown


def test_best_epoch_is_marked() -> None:
    marked = entry(val_auc=[0.5, 0.7, 0.6]) | {"best_epoch": 1}
    assert (
        curves_svg([marked], "a").count("<use ") == curves_svg([marked | {"best_epoch": None}], "a").count("<use ") + 1
    )


@pytest.mark.parametrize("space", ["slots", "bmnas"])
def test_probabilities_of_both_spaces(space: str) -> None:
    def node(inputs: list[str]) -> dict[str, Any]:
        share = [1 / len(inputs)] * len(inputs)
        return {"inputs": inputs} | ({"x": share, "y": share} if space == "slots" else {"skip": share})

    step = node(["x", "y"]) | {"operations": {"Sum": 0.4, "ConcatFC": 0.6}}
    cell = node(["visual/net.blocks.1", "audio/plain"]) | {"steps": [step]}
    shown = texts(probabilities_svg([[cell], [cell]]))
    assert {"visual blocks.1", "audio plain", "Sum", "ConcatFC", "cell 1, step 1: operation"} <= set(shown)
    assert ("cell 1: x" in shown) is (space == "slots")
    assert ("cell 1: inputs (skip)" in shown) is (space == "bmnas")


def test_the_history_of_a_choice_names_what_it_ends_with() -> None:
    layers = {"visual/net.blocks.1": [0.5, 0.2, 0.1], "audio/plain": [0.3, 0.5, 0.2], "cell1": [0.2, 0.3, 0.7]}
    shown = texts(history_svg({"cell 2: x": layers, "cell 2: inputs (skip)": layers}, "history"))
    assert [text for text in shown if text in ("cell1", "audio plain", "visual blocks.1")] == [
        "cell1", "cell1", "audio plain",  # one option of a categorical choice, two edges of {none, skip}
    ]  # fmt: skip
    assert shown.count("epoch") == 2


def test_the_history_keeps_four_digits_of_every_option_and_epoch() -> None:
    cell = {"inputs": ["a", "b"], "skip": [0.123456, 0.5], "steps": []}
    later = cell | {"skip": [1, 0]}
    assert history_of([[cell], [later]]) == {"cell 1: inputs (skip)": {"a": [0.1235, 1], "b": [0.5, 0]}}
