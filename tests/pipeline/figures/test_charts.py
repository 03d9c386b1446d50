from __future__ import annotations

import pytest

from pipeline.figures.charts import Axis, det_axis, det_place, forest, heat_map, lines, series_style
from pipeline.figures.vega import chart


def row(name: str, value: float | None) -> dict[str, object]:
    return {"name": name, "value": value, "low": value, "high": value, "text": name, "loud": False}


def test_a_forest_has_a_row_a_name_in_their_order_and_none_for_what_is_undefined() -> None:
    svg = chart("k", "t", "d", forest([row("zebra", 0.9), row("ape", 0.7), row("bee", None)], axis=Axis("AUC")))
    still = svg[: svg.index("<script")]
    assert still.index(">zebra<") < still.index(">ape<")
    assert ">bee<" not in still


def test_the_line_of_no_difference_leaves_the_axis_as_it_is() -> None:
    svg = chart("k", "t", "d", forest([row("a", 0.8)], axis=Axis("AUC", (0.7, 1.0)), at=0.75))
    assert ">0.70<" in svg and ">0.2<" not in svg  # noqa: PT018 - one question


def test_a_heat_map_writes_its_numbers() -> None:
    cells = [{"row": "r", "column": f"c{i}", "auc": auc, "text": "t"} for i, auc in enumerate((0.912, None, 0.3, 0.0))]
    spec = heat_map(cells, x_title="tested on", y_title="trained on")
    values = spec["data"]["values"]
    assert [value["number"] for value in values] == ["0.91", "—", "0.30", "0.00"]
    assert [value["below"] for value in values] == [False, False, True, True]
    assert values[3]["strength"] == 0.5
    assert values[0]["strength"] == pytest.approx(0.412)
    svg = chart("k", "t", "d", spec)
    assert ">0.91<" in svg and "tested on" in svg  # noqa: PT018


def test_rates_stand_on_det_axes_where_their_labels_do() -> None:
    axis = det_axis("APCER, %")
    assert axis.labels[det_place(0.05)] == "5"
    assert det_place(0.5) == 0
    assert det_place(0) == det_place(1e-9) == axis.ends[0]  # type: ignore[index]
    svg = chart("k", "t", "d", lines([{"series": "a", "x": 0, "y": 0, "text": "t"}], x=axis, y=axis))
    assert ">99.9<" in svg and ">50<" in svg  # noqa: PT018


def test_lines_are_told_apart_by_colour_or_dashes() -> None:
    names = ["fusion", "visual", *(f"other {i}" for i in range(9))]
    colours, dashes = series_style(names)
    assert colours[:2] == ["var(--fusion)", "var(--visual)"]
    assert len(set(zip(colours, map(tuple, dashes), strict=True))) == len(names)
