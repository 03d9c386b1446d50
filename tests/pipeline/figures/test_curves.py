from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import pandas as pd
import pytest

from cache_schemas.run import history_of
from pipeline.figures.curves import curves_svg, det_svg, history_svg, probabilities_svg, roc_svg
from pipeline.statistics.curves import curves
from tests.pipeline.run_fixture import make_clips, make_index, make_scores

LEGENDS = {name: f"{name} legend" for name in ("fusion", "visual", "audio")}


def entry(network: str = "fusion", seed: int = 0, **columns: Any) -> dict[str, Any]:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return {"network": network, "curves": [{"epoch": e, **row} for e, row in enumerate(rows)], "best_epoch": seed}


@pytest.fixture(scope="module")
def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    return curves(make_clips(make_index()), make_scores(make_index()))


def texts(svg: str) -> list[str]:
    return re.findall(r"<text [^>]*>([^<]*)</text>", svg)


def test_plots_are_inline_deterministic_and_leave_no_trace(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    before = dict(mpl.rcParams)
    first = roc_svg(tables[0], LEGENDS)
    assert first == roc_svg(tables[0], LEGENDS)
    assert first.startswith("<svg")
    assert "http" not in first
    assert "metadata" not in first
    assert dict(mpl.rcParams) == before
    ElementTree.fromstring(first.replace("xlink:href", "href"))  # noqa: S314 - well-formed


def test_ids_differ_between_plots_and_all_references_resolve(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    roc, det = roc_svg(tables[0], LEGENDS), det_svg(tables[1], LEGENDS)
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (roc, det)]
    assert not ids[0] & ids[1]
    for svg, known in zip((roc, det), ids, strict=True):
        used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
        assert used
        assert used <= known


def test_colours_come_from_the_page(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    for svg in (roc_svg(tables[0], LEGENDS), det_svg(tables[1], LEGENDS)):
        assert not re.search(r"#[0-9a-f]{6}\b", svg)
        for name, legend in LEGENDS.items():
            assert f"stroke: var(--{name})" in svg
            assert legend in texts(svg)


def test_det_axes_are_probit_scaled() -> None:
    svg = det_svg(pd.DataFrame({"system": "fusion", "fpr": [0.0, 0.2, 0.5], "fnr": [0.5, 0.2, 0.05]}), LEGENDS)
    assert {"0.1", "1", "5", "20", "50", "99.9"} <= set(texts(svg))
    ticks = re.findall(r'text-anchor: middle;[^"]*" x="([\d.]+)"[^>]*>([\d.]+)</text>', svg)
    place = {label: float(x) for x, label in ticks}
    middle = place["50"]
    assert place["20"] - middle == pytest.approx(middle - place["80"], abs=0.1)  # the normal quantile is odd,
    assert (middle - place["1"]) / (middle - place["20"]) == pytest.approx(2.326 / 0.842, abs=0.02)  # and known
    curve = re.findall(r'<path d="([^"]*)"[^>]*stroke: var\(--fusion\)', svg)[0]
    abscissae = [float(x) for x in re.findall(r"[ML] ([\d.]+) ", curve)]
    assert abscissae == pytest.approx([place["0.1"], place["20"], middle], abs=0.1)  # 0 lies on the edge


def test_no_curves_give_an_empty_plot() -> None:
    empty = pd.DataFrame(columns=["system", "fpr", "tpr", "fnr"])
    assert "ROC" in texts(roc_svg(empty, {}))
    assert "DET" in texts(det_svg(empty, {}))


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
