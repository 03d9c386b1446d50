"""Vega-Lite specifications as figures: a static SVG without a browser, and the script that brings them to life.

A specification's colours are CSS variables of the page (palette.css): one drawing serves a light page, a dark one and
paper. Data stand in the specification; what they say is drawn as text, never read as markup.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from html import escape
from typing import Any

import vl_convert
from markupsafe import Markup

Spec = dict[str, Any]
"""A Vega-Lite specification, plain JSON. A layer named HOVER is drawn by the script only."""

HOVER = "hover"
_SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
_CONFIG: Spec = {
    "aria": False,  # the figure has one title and one description; a thousand labels of marks help nobody
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--ink)",
        "titleColor": "var(--ink)",
        "gridColor": "var(--line)",
        "domainColor": "var(--soft)",
        "tickColor": "var(--soft)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelLimit": 210,
    },
    "legend": {"labelColor": "var(--ink)", "labelFontSize": 12, "labelLimit": 330, "symbolStrokeWidth": 2},
    "text": {"color": "var(--ink)"},
}


def chart(key: str, title: str, description: str, spec: Mapping[str, Any]) -> Markup:
    """The figure as markup: its SVG, and its specification for the script beside it.

    key: names it in the page; title and description: what a screen reader says of it.
    """
    whole = {"$schema": _SCHEMA, "config": _CONFIG, **spec}
    data = json.dumps(whole, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    told = f'role="group" aria-label="{escape(title)}" tabindex="0"'  # it may scroll, and then by keyboard, too
    picture = f'<div class="chart" data-spec="{key}-spec" {told}>{_svg(key, title, description, whole)}</div>'
    beside = f'<script type="application/json" id="{key}-spec">{data}</script>'
    return Markup(picture + beside)  # noqa: S704 - texts are escaped above, and by vl_convert


def _svg(key: str, title: str, description: str, spec: Spec) -> str:
    """The <svg> element, its ids beginning with `key`: several share one page."""
    still = {**spec, "layer": [layer for layer in spec["layer"] if layer.get("name") != HOVER]}
    text = vl_convert.vegalite_to_svg(still)
    text = re.sub(r' (?:xmlns(?::xlink)?|version|role|aria-\w+)="[^"]*"', "", text)
    for number, name in enumerate(re.findall(r'\bid="([^"]+)"', text)):  # they are numbered through all figures
        text = text.replace(f'id="{name}"', f'id="{key}-{number}"').replace(f"url(#{name})", f"url(#{key}-{number})")
    text = re.sub(r'<text ([^>]*)font-family="[^"]*"', r"<text \1", text)
    names = f'role="img" aria-labelledby="{key}-title {key}-desc"'
    said = f'<title id="{key}-title">{escape(title)}</title><desc id="{key}-desc">{escape(description)}</desc>'
    head, _, rest = text.partition(">")
    return f"{head} {names}>{said}{rest}"


@functools.cache
def script() -> str:
    """What draws the specifications in a browser: Vega-Lite, Vega and vega-embed, one file without requests."""
    return str(vl_convert.javascript_bundle()).replace("</script", "<\\/script")  # type: ignore[call-arg] # it has a default
