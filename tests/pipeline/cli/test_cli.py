"""The command line: exit codes, help, messages."""

import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
import yaml

from pipeline.cli import app, main
from tests.pipeline.run_fixture import make_index, make_workspace

COMMANDS = (
    "synth", "manifest", "spectrograms", "faces", "pretrain", "features", "search", "retrain", "evaluate", "report",
    "predict", "export", "oracle", "sweep", "bundle", "serve",
)  # fmt: skip
STAGES = COMMANDS[:-6]
ROOT = Path(__file__).parents[3]


@dataclass
class Said:
    """What a command printed, with runs of white space as one blank, and its exit code."""

    code: int
    out: str
    err: str


Bmnas = Callable[..., Said]


@pytest.fixture
def bmnas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Bmnas:
    """Calls the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["bmnas", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capfd.readouterr()
        return Said(int(ended.value.code or 0), *(" ".join(text.split()) for text in printed))

    return call


def test_help_lists_every_stage_and_each_has_an_example(bmnas: Bmnas) -> None:
    said = bmnas("--help")
    assert said.code == 0
    for name in COMMANDS:
        assert name in said.out
        one = bmnas(name, "--help")
        assert one.code == 0
        assert f"Example: bmnas {name}" in one.out


def test_help_does_not_wait_for_torch(tmp_path: Path) -> None:
    code = """
import sys
sys.argv = ["bmnas", "--help"]
from pipeline.cli import main
try:
    main()
finally:
    assert not {"torch", "distributed"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)


@pytest.mark.parametrize("arguments", [["--help"], ["cache", "info", "--help"]])
def test_help_calls_the_command_by_its_name_however_it_was_started(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert " ".join(["Usage: bmnas", *arguments[:-1], "[OPTIONS]"]) in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["faces", "--nonsense"],
        ["predict"],
        ["faces", "--workers", "x"],
        ["bundle"],
        ["predict", "a.mp4", "--json", "--csv"],
        ["predict", "a.mp4", "--hop", "0"],
        ["predict", "a.mp4", "--key", "k"],
        ["predict", "a.mp4", "--bundle", "b", "--work", "w"],
    ],
)
def test_wrong_usage_is_2(bmnas: Bmnas, arguments: list[str]) -> None:
    assert bmnas(*arguments).code == 2


def _numbers(commands: typer.Typer, *names: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """(command, option) of every option that is a float."""
    for group in commands.registered_groups:
        assert group.typer_instance
        own = [name for name in (group.name, group.typer_instance.info.name) if isinstance(name, str)]
        yield from _numbers(group.typer_instance, *names, *own)
    for command in commands.registered_commands:
        assert command.callback
        for option in inspect.signature(command.callback).parameters.values():
            if "float" in str(option.annotation).partition(",")[0]:
                name = command.name or command.callback.__name__
                yield (*names, name), f"--{option.name.replace('_', '-')}"


def test_no_option_that_is_a_number_may_be_infinite_or_none(bmnas: Bmnas) -> None:
    """Whatever range it has: NaN is in all of them."""
    found = list(_numbers(app))
    assert (("serve",), "--max-minutes") in found
    for names, option in found:
        for wrong in ("nan", "inf", "-inf", "-1"):
            said = bmnas(*names, option, wrong, *(["a.mp4"] if names == ("predict",) else []))
            assert said.code == 2, (names, option, wrong)
            assert f"Invalid value for '{option}'" in said.err.replace("│ ", "")


def test_wrong_parameters_are_2_and_named(bmnas: Bmnas, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("faces: {frame: 3}")
    said = bmnas("faces")
    assert said.code == 2
    assert "params.yaml: unknown key faces.frame" in said.err
    assert "Traceback" not in said.err
    (tmp_path / "params.yaml").write_text("{}")
    said = bmnas("manifest", "--layout", "nonsense")
    assert said.code == 2
    assert "data.layout = 'nonsense'" in said.err


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("manifest", "check data.root and data.layout"),
        ("spectrograms", "run `bmnas manifest` first"),
        ("faces", "run `bmnas spectrograms` first"),
        ("features", "run `bmnas manifest` first"),
        ("search", "run `bmnas features` first"),
        ("retrain", "run `bmnas search` first"),
        ("evaluate", "run `bmnas features` first"),
        ("report", "run `bmnas evaluate` first"),
    ],
)
def test_a_stage_without_its_input_is_1_and_says_what_to_run(
    bmnas: Bmnas, tmp_path: Path, stage: str, message: str
) -> None:
    (tmp_path / "params.yaml").write_text("{}")
    said = bmnas(stage)
    assert said.code == 1
    assert message in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("stage", ["search", "retrain"])
@pytest.mark.parametrize(("part", "label"), [("train", 1), ("val", 0)])
def test_one_class_in_a_split_is_1_and_one_clear_error(
    bmnas: Bmnas, tmp_path: Path, stage: str, part: str, label: int
) -> None:
    index = make_index()
    index.loc[index["split"] == part, "label"] = label
    make_workspace(tmp_path / "work", index)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"compute": {"workers": 1, "device": "cpu"}}))
    said = bmnas(stage)
    assert said.code == 1
    assert f"split '{part}' holds only labels [{label}]; allowed: both classes, 0 and 1" in said.err
    assert "Traceback" not in said.err


def test_an_error_without_words_is_named(bmnas: Bmnas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: object, **__: object) -> None:
        raise TimeoutError

    monkeypatch.setattr("pipeline.manifest.build.build_manifest", late)
    (tmp_path / "params.yaml").write_text("{}")
    said = bmnas("manifest")
    assert (said.code, said.err) == (1, "error: TimeoutError")


def test_predict_without_a_run_is_1(bmnas: Bmnas) -> None:
    said = bmnas("predict", "x.mp4")
    assert said.code == 1
    assert "run `bmnas retrain` first" in said.err


def test_what_is_no_bundle_and_no_key_is_1_and_named(bmnas: Bmnas, tmp_path: Path) -> None:
    (tmp_path / "b.bmnas").write_bytes(b"no zip file, but text")
    said = bmnas("predict", "x.mp4", "--bundle", "b.bmnas")
    assert said.code == 1
    assert "b.bmnas: the file: it has 21 bytes; allowed: " in said.err
    said = bmnas("bundle", "-o", "out.bmnas", "--sign", "b.bmnas")
    assert said.code == 1
    assert "needed: a private Ed25519 key" in said.err


def test_dvc_calls_exactly_these_commands() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert stages.pop("own_files")["cmd"] == "python -m pipeline.features.own_files"  # no work of a user's
    assert [stage["cmd"] for stage in stages.values()] == [f"python -m pipeline.cli {name}" for name in STAGES]
    assert list(stages) == list(STAGES)


def test_dvc_keeps_every_output_so_that_experiments_have_their_metrics() -> None:
    """git ignores work/: what DVC did not cache, `dvc exp show` would look for in vain."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    outputs = [out for stage in stages.values() for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]
    assert "work/evaluate/summary.json" in outputs
    assert all(settings.get("cache", True) for out in outputs if isinstance(out, dict) for settings in out.values())
