"""The page's colours as plain values: viewers of a single SVG file know no variables."""

from __future__ import annotations

import functools
import re
from pathlib import Path


def in_light(text: str) -> str:
    """`text` with the light palette's values in place of the variables of palette.css."""
    for name, value in _light().items():
        text = text.replace(f"var({name})", value)
    return text


@functools.cache
def _light() -> dict[str, str]:
    style = Path(__file__).with_name("palette.css").read_text(encoding="utf-8").partition("@media")[0]
    return dict(re.findall(r"(--[\w-]+): (#\w{6})", style))
