from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nas
from nas.names import DEFAULT_OPERATIONS, OPERATIONS
from pipeline.figures.genotype import describe, genotype_svg
from tests.pipeline.run_fixture import LAYERS, make_genotype

NAMES = list(LAYERS)
Box = tuple[float, float, float, float]


@st.composite
def genotypes(draw: st.DrawFn) -> nas.Genotype:
    n_steps = draw(st.integers(1, 4))
    cells: list[nas.Cell] = []
    pairs: set[frozenset[str]] = set()
    for i in range(draw(st.integers(1, 4))):
        inputs = [*NAMES, *(f"cell{k + 1}" for k in range(i))]
        pair = st.lists(st.sampled_from(inputs), min_size=2, max_size=2, unique=True)
        x, y = draw(pair.filter(lambda chosen: frozenset(chosen) not in pairs))
        pairs.add(frozenset((x, y)))
        steps = []
        for t in range(n_steps):
            sources = ["x", "y", *(f"step{k + 1}" for k in range(t))]
            a, b = draw(st.lists(st.sampled_from(sources), min_size=2, max_size=2, unique=True))
            steps.append(nas.Step(x=a, y=b, operation=draw(st.sampled_from(list(OPERATIONS)))))
        cells.append(nas.Cell(x=x, y=y, steps=tuple(steps)))
    return nas.Genotype(cells=tuple(cells))


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)  # noqa: S314 - our own text


def boxes(root: ElementTree.Element, kind: str) -> list[Box]:
    found = []
    for rect in root.iter("rect"):
        if kind in rect.attrib["class"].split():
            x, y, w, h = (float(rect.attrib[name]) for name in ("x", "y", "width", "height"))
            found.append((x, y, x + w, y + h))
    return found


def outer_edges(root: ElementTree.Element) -> list[list[tuple[float, float]]]:
    """Points along each arrow between boxes: level, Bezier, level."""
    kinds = {"visual", "audio", "from-cell"}
    paths = [p.attrib["d"] for p in root.iter("path") if kinds & set(p.attrib["class"].split())]
    return [list(walk(path)) for path in paths]


def walk(path: str) -> Iterator[tuple[float, float]]:
    x, y, x0, ax, ay, bx, by, x1, y1, end = (float(value) for value in re.findall(r"-?[\d.]+", path))
    for share in range(51):
        s = share / 50
        yield x + s * (x0 - x), y
        yield (
            (1 - s) ** 3 * x0 + 3 * (1 - s) ** 2 * s * ax + 3 * (1 - s) * s**2 * bx + s**3 * x1,
            (1 - s) ** 3 * y + 3 * (1 - s) ** 2 * s * ay + 3 * (1 - s) * s**2 * by + s**3 * y1,
        )
        yield x1 + s * (end - x1), y1


@settings(max_examples=60, deadline=None)
@given(genotypes())
def test_no_arrow_crosses_a_box_and_nothing_leaves_the_picture(genotype: nas.Genotype) -> None:
    root = parse(genotype_svg(genotype, NAMES))
    cells = boxes(root, "cell")
    edges = outer_edges(root)
    assert len(edges) == 3 * len(genotype.cells)  # two inputs each, and one way to the classifier
    for x, y in (point for edge in edges for point in edge):
        assert not any(left < x < right and top < y < bottom for left, top, right, bottom in cells)
    width, height = (float(value) for value in root.attrib["viewBox"].split()[2:])
    everything = [box for kind in ("cell", "layer", "output", "step") for box in boxes(root, kind)]
    for left, top, right, bottom in everything:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
    for step in boxes(root, "step"):
        assert any(c[0] < step[0] and c[1] < step[1] and step[2] < c[2] and step[3] < c[3] for c in cells)


@given(genotypes())
@settings(max_examples=30, deadline=None)
def test_arrows_of_layers_start_at_their_layer(genotype: nas.Genotype) -> None:
    root = parse(genotype_svg(genotype, NAMES))
    starts = {edge[0] for edge in outer_edges(root)}
    for rect in root.iter("rect"):
        title = rect.findtext("title") or ""
        if "layer" in rect.attrib["class"]:
            outlet = (
                float(rect.attrib["x"]) + float(rect.attrib["width"]),
                float(rect.attrib["y"]) + float(rect.attrib["height"]) / 2,
            )
            used = title in genotype.layers()
            assert (outlet in starts) is used
            assert ("unused" in rect.attrib["class"]) is not used


def test_every_name_is_shown() -> None:
    genotype = make_genotype("fusion")
    svg = genotype_svg(genotype, NAMES)
    texts = [element.text for element in parse(svg).iter("text")]
    assert texts.count("blocks.3") == 2  # of either modality
    for word in (
        "Visual: net",
        "Audio: net",
        "cell 1",
        "cell 2",
        *DEFAULT_OPERATIONS,
        "P(fake)",
        "query x, keys y",
        "gate of [step 1; y]",
        "x + step 1",
    ):
        assert word in texts


def test_layers_of_several_backbones_keep_their_names() -> None:
    svg = genotype_svg(make_genotype("fusion"), [*NAMES, "visual/other.blocks.1", "audio/plain"])
    texts = [element.text for element in parse(svg).iter("text")]
    assert {"Visual layers", "Audio layers", "net.blocks.1", "other.blocks.1", "plain"} <= set(texts)


def test_words_say_the_same() -> None:
    assert describe(make_genotype("fusion")) == [
        "cell 1: x = visual/net.blocks.0, y = audio/net.blocks.2; "
        "step 1 = ScaledDotAttn(x, y); step 2 = LinearGLU(step 1, y)",
        "cell 2: x = cell 1, y = audio/net.blocks.3; step 1 = ConcatFC(y, x); step 2 = Sum(x, step 1)",
    ]


@pytest.mark.parametrize("name", ['visual/<b>&"', "visual/" + "long" * 20])
def test_odd_layer_names_stay_text(name: str) -> None:
    steps = (nas.Step(x="x", y="y", operation="Sum"),)
    genotype = nas.Genotype(cells=(nas.Cell(x=name, y="audio/a", steps=steps),))
    svg = genotype_svg(genotype, [name, "audio/a"])
    root = parse(svg)
    assert not list(root.iter("b"))
    assert name in [title.text for title in root.iter("title")]  # in full
    assert max(len(element.text or "") for element in root.iter("text")) <= 28


def test_an_operation_of_ones_own_is_drawn_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.genotype.OPERATIONS", (*OPERATIONS, "Mine"))
    step = nas.Step(x="x", y="y", operation="Mine")
    svg = genotype_svg(nas.Genotype(cells=(nas.Cell(x=NAMES[0], y=NAMES[1], steps=(step,)),)), NAMES)
    assert "Mine" in [element.text for element in parse(svg).iter("text")]
