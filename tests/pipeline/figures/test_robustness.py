"""The robustness figure: a panel a degradation, a line a system, the same bytes for the same table."""

from __future__ import annotations

import pandas as pd

from pipeline.figures.experiments import standalone
from pipeline.figures.robustness import robustness_svg

SYSTEMS = ("fusion", "visual", "logistic regression, all layers")


def table(*, auc: float | None = 0.9) -> pd.DataFrame:
    rows = [
        {
            "degradation": name, "title": title, "modality": "visual", "severity": severity, "clips": 40,
            "setting": f"CRF {20 + severity}", "system": system, "auc": auc, "low": auc, "high": auc,
        }
        for name, title, severities in (("h264", "H.264", (0, 1, 3, 5)), ("silence-kept", "silence kept", (0, 1)))
        for severity in severities
        for system in SYSTEMS
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_every_degradation_system_and_setting_is_in_it() -> None:
    svg = robustness_svg(table())
    for text in ("H.264 (40 clips)", "silence kept (40 clips)", "CRF 23", "CRF 25", *SYSTEMS):
        assert f">{text}<" in svg
    assert "var(--fusion)" in svg
    assert "var(" not in standalone(svg)
    assert robustness_svg(table()) == svg


def test_what_is_not_defined_is_drawn_as_nothing() -> None:
    assert ">H.264 (40 clips)<" in robustness_svg(table(auc=None))
