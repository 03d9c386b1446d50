"""params.yaml: everything wrong is named."""

import functools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from jsonschema import Draft202012Validator

from pipeline.params import (
    BackboneParams,
    Params,
    ParamsError,
    WindowParams,
    load_params,
    params_schema,
    params_table,
    parse_params,
)

ROOT = Path(__file__).parents[2]


def test_the_projects_own_file_is_valid() -> None:
    assert load_params(ROOT / "params.yaml").data.layout == "synth"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("serach: {}", "unknown key serach"),
        ("faces: {frame: 3}", "unknown key faces.frame"),
        ("search: {temprature: 3}", "unknown key search.temprature"),
        ("faces: {frames: many}", "faces.frames = 'many'"),
        ("faces: {frames: 0}", "greater than or equal to 1"),
        ("features: {visual: [{weights: /etc/passwd}]}", "features.visual.0.weights = '/etc/passwd'"),
        ("features: {audio: []}", "at least 1 item"),
        (
            "features: {visual: [{name: 'a:b'}, {name: a_b}]}",
            "two backbones would name their layers a_b.STAGE: give each another name",
        ),
        ("windows: {short_clip: loop}", "'wrap', 'repeat_last' or 'quarantine'"),
        ("split: {val: 0.5, test: 0.5}", "leaves nothing to train on"),
        ("spectrograms: {n_fft: 256}", "400 samples at 16000 Hz, more than n_fft 256"),
        ("seeds: []", "seeds"),
        ("[1, 2]", "(top level)"),
        ("a: [", "is not YAML"),
    ],
)
def test_errors_name_file_key_and_value(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError, match=re.escape(message)) as error:
        load_params(path)
    assert str(path) in str(error.value)


def _numbers(given: dict[str, Any], *path: str) -> Iterator[tuple[str, ...]]:
    for name, value in given.items():
        if isinstance(value, dict):
            yield from _numbers(value, *path, name)
        elif isinstance(value, float):
            yield (*path, name)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_no_number_may_be_infinite_or_none(wrong: float) -> None:
    for path in _numbers(Params().model_dump()):
        content = Params().model_dump()
        functools.reduce(dict.__getitem__, path[:-1], content)[path[-1]] = wrong
        with pytest.raises(ParamsError, match=re.escape(f"{'.'.join(path)} = {wrong}")):
            parse_params(content, source="here")


def test_all_errors_come_at_once() -> None:
    with pytest.raises(ParamsError) as error:
        parse_params({"x": 1, "faces": {"y": 2}}, source="here")
    assert str(error.value).count("unknown key") == 2


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="give --params"):
        load_params(tmp_path / "params.yaml")


def test_dvc_stages_depend_only_on_parameters_that_exist() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for stage in stages.values():
        for key in stage.get("params", []):
            assert key in Params.model_fields


def test_docs_hold_the_table_of_parameters() -> None:
    assert "None |" not in params_table(), "a description is missing"
    assert (ROOT / "docs" / "params.md").read_text() == params_table(), "bmnas params table > docs/params.md"


def test_docs_hold_the_schema() -> None:
    text = (ROOT / "docs" / "params.schema.json").read_text()
    assert json.loads(text) == params_schema(), "bmnas params schema > docs/params.schema.json"


def test_editors_find_the_schema_by_the_first_line_of_the_projects_own_file() -> None:
    first = (ROOT / "params.yaml").read_text().splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    assert (ROOT / first.partition("=")[2]).is_file()


@pytest.fixture(scope="module")
def schema() -> Draft202012Validator:
    Draft202012Validator.check_schema(params_schema())
    return Draft202012Validator(params_schema())


def test_the_schema_accepts_the_projects_own_file(schema: Draft202012Validator) -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert [error.message for error in schema.iter_errors(content)] == []


@pytest.mark.parametrize(
    "text",
    [
        "serach: {}",
        "faces: {frame: 3}",
        "faces: {frames: many}",
        "faces: {frames: 0}",
        "search: {space: slot}",
        "features: {visual: [{weights: /etc/passwd}]}",
        "features: {audio: []}",
        "pretrain: {visual: {epochs: 3}}",
    ],
)
def test_the_schema_refuses_what_the_program_refuses(schema: Draft202012Validator, text: str) -> None:
    content = yaml.safe_load(text)
    with pytest.raises(ParamsError):
        parse_params(content, source="here")
    assert not schema.is_valid(content)


def test_the_schema_explains_every_key() -> None:
    models = [params_schema(), *params_schema()["$defs"].values()]
    keys = [(name, key) for model in models for name, key in model.get("properties", {}).items()]
    assert len(keys) > 80
    assert [name for name, key in keys if not {"description", "$ref"} & key.keys()] == []
    assert [name for name, key in keys if "default" not in key] == []


def test_the_projects_own_file_shows_the_defaults() -> None:
    assert load_params(ROOT / "params.yaml") == Params()


def test_a_parameter_that_comes_later_is_in_no_name_at_the_value_that_changes_nothing() -> None:
    class Later(WindowParams):
        ALIKE: ClassVar = WindowParams.ALIKE | {"overlap": {0.0: None}}
        overlap: float = 0.5  # whatever the default is today

    before = WindowParams()
    assert Later(overlap=0.0).naming() == before.naming()
    assert Later().naming() == before.naming() | {"overlap": 0.5}


def test_poolings_have_one_order_and_the_maximum_alone_is_in_no_name() -> None:
    before = BackboneParams(pool=("max",)).naming()
    assert "pool" not in before
    assert BackboneParams(pool=("deviation", "max", "max")).pool == ("max", "deviation")
    assert BackboneParams(pool=("mean",)).naming() == before | {"pool": ["mean"]}
    for wrong in ([], ["min"], "max"):
        with pytest.raises(ParamsError, match="pool"):
            parse_params({"features": {"audio": [{"pool": wrong}]}}, source="here")
