"""The genotype: JSON there and back, and what it refuses."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas import Cell, Genotype, Step
from nas.genotype import notation
from nas.primitives import OPERATIONS

LAYERS = [f"{modality}/{name}" for modality in ("visual", "audio") for name in ("stage.1", "b/2", "ü")]


@st.composite
def genotypes(draw):
    cells, pairs = [], set()
    for i in range(draw(st.integers(1, 3))):
        inputs = LAYERS + [f"cell{j + 1}" for j in range(i)]
        x, y = draw(
            st.lists(st.sampled_from(inputs), min_size=2, max_size=2, unique=True).filter(
                lambda pair: frozenset(pair) not in pairs
            )
        )
        pairs.add(frozenset((x, y)))
        steps = []
        for t in range(draw(st.integers(1, 3))):
            names = ["x", "y"] + [f"step{j + 1}" for j in range(t)]
            left, right = draw(st.lists(st.sampled_from(names), min_size=2, max_size=2, unique=True))
            steps.append(Step(x=left, y=right, operation=draw(st.sampled_from(list(OPERATIONS)))))
        cells.append(Cell(x=x, y=y, steps=tuple(steps)))
    return Genotype(cells=tuple(cells))


def description() -> dict:
    step = {"x": "x", "y": "y", "operation": "ConcatFC"}
    cells = [
        {"x": "visual/v1", "y": "audio/a1", "steps": [step, {"x": "step1", "y": "x", "operation": "Sum"}]},
        {"x": "audio/a1", "y": "cell1", "steps": [step]},
    ]
    return {"schema_version": 1, "cells": cells}


@given(genotypes())
def test_json_there_and_back(genotype):
    text = genotype.to_json()
    assert json.loads(text)["schema_version"] == 1
    assert Genotype.from_json(text) == genotype


def test_layers_are_named_once_in_the_order_of_use_and_without_cells():
    assert Genotype.from_json(json.dumps(description())).layers() == ["visual/v1", "audio/a1"]


def edited(path: list, value: object) -> str:
    root = description()
    node = root
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return json.dumps(root)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["cells", 0, "steps", 0, "operation"], "Eval", "'Eval' is unknown; allowed: Sum, ScaledDotAttn"),
        (["cells", 0, "x"], "cell1", r"cells\[0\].x is 'cell1'; allowed: visual/NAME, audio/NAME"),
        (["cells", 1, "y"], "cell2", r"cells\[1\].y is 'cell2'; allowed: .*cell1"),
        (["cells", 0, "x"], "v1", r"cells\[0\].x is 'v1'"),
        (["cells", 0, "y"], "visual/v1", "twice"),
        (["cells", 0, "steps", 0, "x"], "step1", r"steps\[0\].x is 'step1'; allowed: x, y"),
        (["cells", 0, "steps", 1, "y"], "step1", "twice"),
        (["cells", 1], description()["cells"][0] | {"x": "audio/a1", "y": "visual/v1"}, "as an earlier cell does"),
        (["cells", 0, "steps"], [], "at least 1"),
        (["cells"], [], "at least 1"),
        (["schema_version"], 2, "schema_version"),
        (["extra"], 1, "extra"),
    ],
)
def test_a_malformed_genotype_is_refused_by_name(path, value, message):
    with pytest.raises(ValueError, match=message):
        Genotype.from_json(edited(path, value))


def test_text_that_is_no_json_is_refused():
    with pytest.raises(ValueError, match="JSON"):
        Genotype.from_json("__import__('os')")


def test_the_notation_is_one_line():
    steps = (Step(x="x", y="y", operation="Sum"), Step(x="step1", y="x", operation="ConcatFC"))
    genotype = Genotype(
        cells=(Cell(x="visual/a", y="audio/b", steps=steps), Cell(x="cell1", y="visual/a", steps=steps))
    )
    assert notation(genotype) == (
        "visual/a + audio/b: Sum(x, y), ConcatFC(step1, x); cell1 + visual/a: Sum(x, y), ConcatFC(step1, x)"
    )
