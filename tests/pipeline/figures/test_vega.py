from __future__ import annotations

import json
import re

import pytest
import vl_convert
from markupsafe import Markup

from pipeline.figures.charts import Axis, forest, lines
from pipeline.figures.vega import HOVER, Spec, chart, script

HOSTILE = '</script><script>alert("x")</script><img src=http://evil.example/a.png>'


def spec(name: str = "fusion") -> Spec:
    rows = [{"series": name, "x": x, "y": x**2, "text": f"at {x}"} for x in (0.0, 0.25, 0.5, 1.0)]
    return lines(rows, x=Axis("x"), y=Axis("y"))


def data_of(markup: Markup) -> Spec:
    """The specification that stands beside the picture."""
    found: Spec = json.loads(re.findall(r'<script type="application/json" id="k-spec">(.*?)</script>', markup)[0])
    return found


def test_a_figure_is_a_picture_and_its_specification() -> None:
    found = chart("k", "Title & more", "Said <so>", spec())
    assert found.count("<svg") == found.count("<script") == 1
    assert 'role="img" aria-labelledby="k-title k-desc"' in found
    assert '<title id="k-title">Title &amp; more</title><desc id="k-desc">Said &lt;so&gt;</desc>' in found
    assert [row["text"] for row in data_of(found)["data"]["values"]] == ["at 0.0", "at 0.25", "at 0.5", "at 1.0"]


def test_what_is_drawn_for_the_pointer_is_not_in_the_picture() -> None:
    found = chart("k", "t", "d", spec())
    assert [layer for layer in data_of(found)["layer"] if layer.get("name") == HOVER]
    still = found[: found.index("<script")]
    assert still.count('stroke="var(--fusion)"') == 2  # the line, and its sign in the legend
    assert "mark-symbol role-mark layer" not in still


def test_the_picture_is_the_same_every_time_and_knows_no_other_colours() -> None:
    first, second = (chart("k", "t", "d", spec()) for _ in range(2))
    assert first == second
    assert "var(--ink)" in first
    assert not re.findall(r'(?:fill|stroke)="#', first)


def test_ids_of_two_figures_do_not_meet() -> None:
    ids = [set(re.findall(r'\bid="([^"]+)"', chart(key, "t", "d", spec()))) for key in ("one", "two")]
    assert ids[0]
    assert not ids[0] & ids[1]
    for key in ("one", "two"):
        page = chart(key, "t", "d", spec())
        assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(re.findall(r'\bid="([^"]+)"', page))


def test_hostile_names_are_text() -> None:
    row = {"name": HOSTILE, "value": 0.5, "low": 0.4, "high": 0.6, "text": HOSTILE, "loud": False}
    found = chart("k", HOSTILE, HOSTILE, forest([row], axis=Axis("AUC")))
    assert found.count("<script") == found.count("</script") == 1  # that of the specification
    assert "<img" not in found
    assert data_of(found)["data"]["values"][0]["name"] == HOSTILE


def test_nothing_is_asked_of_the_network() -> None:
    found = chart("k", "t", "d", spec()).replace("https://vega.github.io/schema/vega-lite/v6.json", "")
    assert "http" not in found


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        chart("k", "t", "d", spec() | {"width": float("nan")})


def test_the_script_is_one_piece_that_no_text_of_it_ends() -> None:
    assert "vegaEmbed" in script()
    assert "</script" not in script()
    assert len(script()) < 1_000_000


def test_tooltips_are_those_of_the_points() -> None:
    """Of `nearest` selections Vega-Lite 6.4 makes areas around the points, whose tooltips say "undefined"."""
    drawn = vl_convert.vegalite_to_vega(spec())
    tooltips = {mark["type"] for mark in drawn["marks"] if "tooltip" in mark["encode"]["update"]}
    assert tooltips == {"symbol"}
