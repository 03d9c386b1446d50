"""A genotype as inline SVG: layers on the left, cells as a staircase to the right, so that no arrow crosses a box.

Cell i stands in row i and column i. What it reads comes along its own row, which is empty to its left; what it
gives leaves along its row, which is empty to its right. Colours come from the page's style sheet, by class.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from nas import Cell, Genotype
from pipeline.figures.palette import in_light

LAYER_W, LAYER_H, LAYER_GAP, HEADER_H = 204, 32, 8, 30
CHANNEL = 96  # between the layers and the first cell: where their arrows bend
STEP_X, STEP_W, STEP_H, STEP_GAP = 74, 146, 46, 24
CELL_TOP, CELL_BOTTOM, CELL_W, CELL_GAP = 44, 16, 340, 52
OUTPUT_W, OUTPUT_H, MARGIN = 120, 60, 10
MAX_NAME = 28

Point = tuple[float, float]

_FORMULA = {
    "Sum": "{x} + {y}",
    "ScaledDotAttn": "query {x}, keys {y}",
    "LinearGLU": "gate of [{x}; {y}]",
    "ConcatFC": "layer of [{x}; {y}]",
    "CrossGate": "{x} and {y}, each gated",
    "LowRankBilinear": "product of {x} and {y}",
    "Synchrony": "{x} against shifted {y}",
}


def describe(genotype: Genotype) -> list[str]:
    """The architecture in words, one line a cell."""
    lines = []
    for number, cell in enumerate(genotype.cells, 1):
        steps = "; ".join(
            f"step {t} = {step.operation}({_spaced(step.x)}, {_spaced(step.y)})" for t, step in enumerate(cell.steps, 1)
        )
        lines.append(f"cell {number}: x = {_spaced(cell.x)}, y = {_spaced(cell.y)}; {steps}")
    return lines


def genotype_svg(genotype: Genotype, layers: Sequence[str]) -> str:
    """An <svg> element; layers: every layer that the search could choose from, the unused ones are drawn faint."""
    names = [*layers, *(name for name in genotype.layers() if name not in layers)]
    used = set(genotype.layers())
    outlets, layer_parts, layers_bottom = _layers(names, used)
    most = max(len(cell.steps) for cell in genotype.cells)
    cell_h = CELL_TOP + most * (STEP_H + STEP_GAP) - STEP_GAP + CELL_BOTTOM
    rows_h = len(genotype.cells) * (cell_h + CELL_GAP / 2) - CELL_GAP / 2
    height = max(layers_bottom, rows_h + 2 * MARGIN)
    top = (height - rows_h) / 2
    boxes: list[str] = []
    edges: list[str] = []
    outputs: list[Point] = []
    for i, cell in enumerate(genotype.cells):
        left = MARGIN + LAYER_W + CHANNEL + i * (CELL_W + CELL_GAP)
        corner = (left, top + i * (cell_h + CELL_GAP / 2))
        ports, out, drawn = _cell(cell, i, corner, cell_h)
        boxes += drawn
        for name, port in zip((cell.x, cell.y), ports, strict=True):
            edges.append(_inward(name, outlets, port))
        outlets[f"cell{i + 1}"] = out
        outputs.append(out)
    left = MARGIN + LAYER_W + CHANNEL + len(genotype.cells) * (CELL_W + CELL_GAP) + 10
    width = left + OUTPUT_W + MARGIN
    boxes += _output((left, height / 2), outputs, edges)
    label = escape("Architecture: " + ". ".join(describe(genotype)), quote=True)
    body = "".join([*edges, *layer_parts, *boxes])
    return f'<svg class="genotype" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{label}">{body}</svg>'


def standalone_svg(genotype: Genotype, layers: Sequence[str]) -> str:
    """A whole SVG file with its own light style: plain colours, which every viewer knows."""
    svg = genotype_svg(genotype, layers)
    opening = '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif"'
    return svg.replace("<svg", opening, 1).replace(">", f"><style>{_plain_style()}</style>", 1) + "\n"


def _plain_style() -> str:
    """genotype.css with the light palette's values in place of variables and mixtures."""
    style = in_light(Path(__file__).with_name("genotype.css").read_text(encoding="utf-8"))
    return re.sub(r"color-mix\(in srgb, (#\w{6}) (\d+)%, (#\w{6})\)", _mixed, style)


def _mixed(match: re.Match[str]) -> str:
    colour, percent, ground = match.groups()
    share = int(percent) / 100
    parts = ((int(colour[i : i + 2], 16), int(ground[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in parts)


def _layers(names: Sequence[str], used: set[str]) -> tuple[dict[str, Point], list[str], float]:
    """Where the arrows of each layer start, the drawn column, and its lower end."""
    outlets: dict[str, Point] = {}
    parts: list[str] = []
    y = float(MARGIN)
    for kind in ("visual", "audio"):
        group = {name: name.partition("/")[2] for name in names if name.startswith(kind + "/")}
        if not group:
            continue
        heading = f"{kind.capitalize()} layers"
        backbones = {label.partition(".")[0] for label in group.values() if "." in label}
        if len(backbones) == 1 and all("." in label for label in group.values()):
            heading = f"{kind.capitalize()}: {_shorten(backbones.pop())}"  # said once, not in every box
            group = {name: label.partition(".")[2] for name, label in group.items()}
        parts.append(_text((MARGIN, y + 16), heading, "heading start"))
        y += HEADER_H
        for name, label in group.items():
            faint = "" if name in used else " unused"
            parts.append(_box((MARGIN, y), LAYER_W, LAYER_H, f"layer {kind}{faint}", name))
            parts.append(_text((MARGIN + 12, y + 21), _shorten(label), f"name start{faint}"))
            outlets[name] = (MARGIN + LAYER_W, y + LAYER_H / 2)
            y += LAYER_H + LAYER_GAP
        y += LAYER_GAP
    return outlets, parts, y


def _cell(cell: Cell, index: int, corner: Point, height: float) -> tuple[tuple[Point, Point], Point, list[str]]:
    """The cell's two ports, its outlet, and its drawing."""
    left, top = corner
    middle = top + (CELL_TOP + height - CELL_BOTTOM) / 2
    ports = ((left, middle - 26), (left, middle + 26))
    parts = [
        _box(corner, CELL_W, height, "cell", f"cell {index + 1}"),
        _text((left + 12, top + 19), f"cell {index + 1}", "heading start"),
    ]
    sources: dict[str, Point] = {}
    for name, (x, y) in zip("xy", ports, strict=True):
        parts += [f'<circle class="port" cx="{x:g}" cy="{y:g}" r="9"/>', _text((x, y + 4), name, "small")]
        sources[name] = (x + 9, y)
    weighted, added = (left + CELL_W - 78, middle), (left + CELL_W - 34, middle)
    for t, step in enumerate(cell.steps):
        at = (left + STEP_X, top + CELL_TOP + t * (STEP_H + STEP_GAP))
        parts += [_step_edge(name, t, slot, at, sources) for slot, name in enumerate((step.x, step.y))]
        right = (at[0] + STEP_W, at[1] + STEP_H / 2)
        formula = _FORMULA.get(step.operation, "{x}, {y}")
        parts += [
            _bend(right, (weighted[0] - 12, weighted[1]), "inner"),
            _box(at, STEP_W, STEP_H, "step", step.operation),
            _text((at[0] + STEP_W / 2, at[1] + 19), step.operation, "name strong"),
            _text((at[0] + STEP_W / 2, at[1] + 36), formula.format(x=_spaced(step.x), y=_spaced(step.y)), "small"),
        ]
    lane = top + CELL_TOP - 14
    start = sources["x"]
    residual = f"M{left + 20:g} {start[1]:g} V{lane:g} H{added[0]:g} V{added[1] - 12:g}"
    parts.append(
        f'<path class="edge residual" d="{residual}"/>{_head((added[0], added[1] - 12), "residual", down=True)}'
    )
    parts += [*_node(weighted, "Σ"), *_node(added, "+")]
    parts.append(_bend((weighted[0] + 12, weighted[1]), (added[0] - 12, added[1]), "inner"))
    parts.append(f'<path class="edge inner" d="M{added[0] + 12:g} {middle:g} H{left + CELL_W:g}"/>')
    return ports, (left + CELL_W, middle), parts


def _step_edge(name: str, t: int, slot: int, at: Point, sources: dict[str, Point]) -> str:
    """The arrow from a port or an earlier step into step t, whose box stands at `at`."""
    x, y = at[0], at[1] + (0.3 + 0.4 * slot) * STEP_H
    if name in sources:
        return _bend(sources[name], (x, y), "inner")
    distance = t - (int(name.removeprefix("step")) - 1)
    if distance == 1:  # straight down from the step above
        down = at[0] + STEP_W * (0.35 + 0.3 * slot)
        line = f'<path class="edge inner" d="M{down:g} {at[1] - STEP_GAP:g} V{at[1]:g}"/>'
        return line + _head((down, at[1]), "inner", down=True)
    # Past the steps between, on their left.
    start = at[1] - distance * (STEP_H + STEP_GAP) + STEP_H * 0.85
    path = f"M{x:g} {start:g} C{x - 34:g} {start:g} {x - 34:g} {y:g} {x:g} {y:g}"
    return f'<path class="edge inner" d="{path}"/>' + _head((x, y), "inner")


def _inward(name: str, outlets: dict[str, Point], port: Point) -> str:
    """The arrow from a layer or an earlier cell to a cell's port: it bends in the gap, then follows the row."""
    kind = name.partition("/")[0] if "/" in name else "from-cell"
    start = outlets[name]
    bend = start[0] + (CHANNEL if "/" in name else CELL_GAP) - 14
    return _bend(start, (port[0] - 9, port[1]), kind, bend_ends=bend)


def _output(left_middle: Point, outputs: Sequence[Point], edges: list[str]) -> list[str]:
    x, y = left_middle
    for i, out in enumerate(outputs):
        target = (x, y + 12 * (i - (len(outputs) - 1) / 2))
        bend_starts = x - CELL_GAP - 4
        edges.append(_bend(out, target, "from-cell", bend_starts=bend_starts))
    return [
        _box((x, y - OUTPUT_H / 2), OUTPUT_W, OUTPUT_H, "output", "classifier"),
        _text((x + OUTPUT_W / 2, y - 4), "P(fake)", "name strong"),
        _text((x + OUTPUT_W / 2, y + 15), "concat, linear", "small"),
    ]


def _bend(
    start: Point, end: Point, kind: str, *, bend_starts: float | None = None, bend_ends: float | None = None
) -> str:
    """An arrow to the right: level, an S-bend between the two abscissae, level again."""
    x0, x1 = bend_starts or start[0], bend_ends or end[0]
    middle = (x0 + x1) / 2
    (x, y), (end_x, end_y) = start, end
    path = f"M{x:g} {y:g} H{x0:g} C{middle:g} {y:g} {middle:g} {end_y:g} {x1:g} {end_y:g} H{end_x:g}"
    return f'<path class="edge {kind}" d="{path}"/>' + _head(end, kind)


def _head(tip: Point, kind: str, *, down: bool = False) -> str:
    x, y = tip
    points = [(x, y), (x - 4, y - 7), (x + 4, y - 7)] if down else [(x, y), (x - 7, y - 4), (x - 7, y + 4)]
    return f'<polygon class="head {kind}" points="{" ".join(f"{a:g},{b:g}" for a, b in points)}"/>'


def _box(corner: Point, width: float, height: float, kind: str, title: str) -> str:
    place = f'x="{corner[0]:g}" y="{corner[1]:g}" width="{width:g}" height="{height:g}"'
    return f'<rect class="{kind}" {place} rx="7"><title>{escape(title)}</title></rect>'


def _node(centre: Point, sign: str) -> list[str]:
    x, y = centre
    return [f'<circle class="node" cx="{x:g}" cy="{y:g}" r="12"/>', _text((x, y + 5), sign, "name")]


def _text(at: Point, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{at[0]:g}" y="{at[1]:g}">{escape(text)}</text>'


def _spaced(name: str) -> str:
    """ "step1" as "step 1", "cell2" as "cell 2"; other names as they are."""
    return re.sub(r"^(step|cell)(\d+)$", r"\1 \2", name)


def _shorten(name: str) -> str:
    return name if len(name) <= MAX_NAME else name[: MAX_NAME // 2 - 1] + "…" + name[-MAX_NAME // 2 :]
