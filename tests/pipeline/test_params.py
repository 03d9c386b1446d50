"""params.yaml: everything wrong is named."""

import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import yaml
from pydantic import BaseModel

from pipeline.params import Params, ParamsError, WindowParams, load_params, parse_params

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


def parameter_rows(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """README.md's table of parameters, made from the model: `python -m tests.pipeline.test_params` prints it."""
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from parameter_rows(annotation, f"{prefix}{name}.")
            continue
        inner = [part for part in typing.get_args(annotation) if isinstance(part, type) and issubclass(part, BaseModel)]
        if typing.get_origin(annotation) is tuple and inner:
            yield f"| `{prefix}{name}` | one | {field.description} |"
            yield from parameter_rows(inner[0], f"{prefix}{name}[].")
            continue
        default = field.get_default(call_default_factory=True)
        text = yaml.safe_dump(list(default) if isinstance(default, tuple) else default, default_flow_style=True)
        allowed = typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()
        choices = f" ({', '.join(allowed)})" if allowed else ""
        meaning = f"{field.description}{choices}".replace("|", "\\|")
        yield f"| `{prefix}{name}` | {text.removesuffix(chr(10)).removesuffix(chr(10) + '...')} | {meaning} |"


def test_the_readme_explains_every_parameter_and_its_default() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    rows = list(parameter_rows(Params))
    assert not any("None" in row.split("|")[3] for row in rows if "device" not in row), "a description is missing"
    missing = [row for row in rows if row not in lines]
    assert not missing, "README.md lacks (python -m tests.pipeline.test_params prints the table):\n" + "\n".join(
        missing
    )


def test_the_projects_own_file_shows_the_defaults() -> None:
    assert load_params(ROOT / "params.yaml") == Params()


if __name__ == "__main__":
    print("| key | default | meaning |\n| --- | --- | --- |", *parameter_rows(Params), sep="\n")


def test_a_parameter_that_comes_later_is_in_no_name_at_the_value_that_changes_nothing() -> None:
    class Later(WindowParams):
        ALIKE: ClassVar = WindowParams.ALIKE | {"overlap": {0.0: None}}
        overlap: float = 0.5  # whatever the default is today

    before = WindowParams()
    assert Later(overlap=0.0).naming() == before.naming()
    assert Later().naming() == before.naming() | {"overlap": 0.5}
