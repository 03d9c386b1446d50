"""What MkDocs does beside its settings: formulas in ```math fences become drawings, so that no page loads a script."""

from __future__ import annotations

import io
from html import escape
from typing import Any

import matplotlib
from matplotlib import mathtext
from matplotlib.font_manager import FontProperties


def on_config(config: Any) -> Any:
    """Registers the fence; GitHub draws the same fences by itself."""
    fence = {"name": "math", "class": "formula", "format": formula}
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [fence]
    return config


def formula(source: str, *_: Any, **__: Any) -> str:
    """HTML of a fence: each line a formula in the TeX that matplotlib knows, readable aloud as it was written."""
    return f'<div class="formula">{"".join(map(_drawn, source.strip().splitlines()))}</div>'


def _drawn(line: str) -> str:
    out = io.BytesIO()
    with matplotlib.rc_context({"mathtext.fontset": "stix", "svg.hashsalt": "bmnas"}):
        mathtext.math_to_image(f"${line}$", out, prop=FontProperties(size=13), format="svg")
    svg = out.getvalue().decode()
    svg = svg[svg.index("<svg") :].replace(
        "<svg", f'<svg role="img" aria-label="{escape(line)}" fill="currentColor"', 1
    )
    return f"<p>{svg}</p>"
