"""Single SVG files hold plain colours."""

from pipeline.figures.experiments import standalone
from pipeline.figures.palette import in_light


def test_variables_become_the_light_palettes_values() -> None:
    assert in_light("stroke: var(--fusion); fill: var(--paper)") == "stroke: #4a4fc4; fill: #ffffff"


def test_a_plot_of_its_own_needs_no_style_sheet() -> None:
    svg = standalone('<svg class="plot"><path stroke="var(--ink)"/></svg>')
    assert svg.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert "var(" not in svg
