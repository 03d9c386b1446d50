"""The model card and the data card: Markdown with the headings that readers of model hubs know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.report.page import render_markdown
from pipeline.statistics.shortcuts import SHORTCUTS


def model_card(facts: Mapping[str, Any]) -> str:
    """model-card.md; facts: what the page shows. Every number of it is of metrics.json or of a protocol."""
    return render_markdown("model-card.md.j2", **facts)


def data_card(facts: Mapping[str, Any]) -> str:
    """data-card.md, likewise."""
    return render_markdown("data-card.md.j2", **facts, property_names=SHORTCUTS)
