"""Genotypes found in files, compared, and drawn as a file of their own."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given

import nas
from cache_schemas.run import Member, RunFileError, SearchEntry, SearchRun, write_run
from pipeline.figures.genotype import standalone_svg
from pipeline.runs.genotypes import differences, find_genotype
from tests.pipeline.figures.test_genotype import genotypes
from tests.pipeline.run_fixture import LAYERS, make_genotype

ONE, OTHER = make_genotype("fusion", 1), make_genotype("fusion", 2)


def entry(seed: int, genotype: nas.Genotype) -> SearchEntry:
    return SearchEntry(
        network="fusion",
        seed=seed,
        members=[Member(genotype=genotype.model_dump(mode="json"))],
        curves=[],
        probabilities=[{"inputs": list(LAYERS), "x": [], "y": [], "steps": []}],
    )


def test_a_genotype_is_found_in_its_own_file_and_in_a_run(tmp_path: Path) -> None:
    genotype = ONE
    (tmp_path / "genotype.json").write_text(genotype.to_json())
    assert find_genotype(tmp_path / "genotype.json").genotype == genotype
    write_run(tmp_path / "search.json", SearchRun(entries=[entry(3, OTHER), entry(4, genotype)]))
    found = find_genotype(tmp_path / "search.json", seed=4)
    assert found.genotype == genotype
    assert set(found.layers) >= set(LAYERS)
    assert find_genotype(tmp_path / "search.json").genotype == OTHER


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no json", "cannot be read as JSON"),
        ("[]", "none of: a genotype"),
        ('{"cells": [{"x": "visual/a", "y": "audio/b", "steps": []}]}', "cells.0.steps"),
    ],
)
def test_what_is_no_genotype_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "file.json").write_text(content)
    with pytest.raises(RunFileError, match=message) as caught:
        find_genotype(tmp_path / "file.json")
    assert "file.json" in str(caught.value)


def test_an_entry_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    write_run(tmp_path / "search.json", SearchRun(entries=[entry(3, OTHER)]))
    with pytest.raises(RunFileError, match=r"no entry visual; it has .*: fusion 3"):
        find_genotype(tmp_path / "search.json", "visual")


@given(genotypes(), genotypes())
def test_differences_lead_from_one_to_the_other(old: nas.Genotype, new: nas.Genotype) -> None:
    found = differences(old, new)
    assert (found == []) == (old == new)
    assert differences(old, old) == []
    assert [(place, b, a) for place, a, b in found] == sorted_as(found, differences(new, old))


def sorted_as(order: list[tuple[str, str, str]], found: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    by_place = {row[0]: row for row in found}
    return [by_place[place] for place, _, _ in order]


def test_one_changed_choice_is_one_difference() -> None:
    content = json.loads(ONE.to_json())
    before = content["cells"][0]["steps"][0]["operation"]
    after = "Sum" if before != "Sum" else "ConcatFC"
    content["cells"][0]["steps"][0]["operation"] = after
    changed = nas.Genotype.model_validate(content)
    assert differences(ONE, changed) == [("cell 1, step 1: operation", before, after)]


def test_the_drawing_alone_has_plain_colours() -> None:
    svg = standalone_svg(ONE, list(LAYERS))
    root = ElementTree.fromstring(svg)  # noqa: S314 - our own text
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(" not in svg
    assert "color-mix" not in svg
    assert re.search(r"\.layer\.visual \{ fill: #[0-9a-f]{6};", svg)
