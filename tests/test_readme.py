"""README.md and the manual's pages (docs/): what they show runs, and leads somewhere."""

import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml

import nas
from pipeline.backbones import load_backbone
from pipeline.cli import app
from pipeline.params import BackboneParams, parse_params
from tests.pipeline.run_fixture import LAYERS, LENGTH, make_index, make_workspace

ROOT = Path(__file__).parents[1]
PAGES = [str(p.relative_to(ROOT)) for p in (*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md")))]
COMMANDS: Any = typer.main.get_command(app)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a language, without the indentation of a list that they stand in."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text_of(page), flags=re.MULTILINE | re.DOTALL)
    return [re.sub(f"^{indent}", "", code, flags=re.MULTILINE) for indent, code in found]


def command_lines() -> Iterator[tuple[str, str]]:
    """(page, command line): each `bmnas ...` in code, in a line of its own or within a sentence."""
    for page in PAGES:
        if page == "docs/commands.md":
            continue  # made from the commands themselves
        text = text_of(page)
        inline = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        fenced = "\n".join(re.findall(r"^ *```.*?\n(.*?)^ *```$", text, flags=re.MULTILINE | re.DOTALL))
        own = [line.strip() for line in text.splitlines() if line.startswith("    ")] + fenced.splitlines()
        # Optional parts are given, too; of what can be chosen the first.
        lines = [re.sub(r" \| \S+|[\[\]]", "", " ".join(code.split()).partition(" #")[0]) for code in (*inline, *own)]
        for line in dict.fromkeys(line.strip() for line in lines if line.startswith("bmnas ")):
            yield page, line


def test_python_of_the_reference_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_workspace(tmp_path / "work", make_index())
    # The same calls, over in a moment.
    search, retrain = nas.SearchConfig, nas.RetrainConfig
    monkeypatch.setattr(nas, "SearchConfig", lambda: search(epochs=3, warmup_epochs=1, channels=4, candidates=4))
    monkeypatch.setattr(nas, "RetrainConfig", lambda: retrain(epochs=2, channels=4))
    names: dict[str, Any] = {}
    code = blocks("docs/python.md", "python")
    assert len(code) == 2
    for block in code:
        exec(block, names)  # noqa: S102 - the manual's own code
    windows = len(names["labels"])
    assert {name: x.shape for name, x in names["features"].items()} == {
        name: (windows, LENGTH, channels) for name, channels in LAYERS.items()
    }
    assert [result.scores.shape for result in names["trained"]] == [(windows,)] * 3


def test_the_backbone_of_ones_own_gives_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = blocks("docs/backbones.md", "python")
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    backbone = load_backbone("visual", BackboneParams(name="mine:brightness", weights="seed:0", pool=("max",)), "cpu")
    crops = torch.randint(256, (2, 8, 16, 16, 3), dtype=torch.uint8)
    (found,) = backbone(crops, length=8).values()
    assert torch.equal(found, crops.float().amax((2, 3)))


@pytest.mark.parametrize("page", PAGES)
def test_parameters_that_a_page_shows_are_valid(page: str) -> None:
    for block in blocks(page, "yaml"):
        parse_params(yaml.safe_load(block), source=page)


def test_the_pages_show_parameters() -> None:
    assert sum(len(blocks(page, "yaml")) for page in PAGES) == 12


@pytest.mark.parametrize(("page", "line"), list(command_lines()), ids=lambda text: text)
def test_commands_that_a_page_shows_can_be_given(page: str, line: str) -> None:
    words = shlex.split(line)
    command, name = COMMANDS, words.pop(0)
    while words and words[0] in getattr(command, "commands", {}):
        name = words.pop(0)
        command = command.commands[name]
    assert not words or words[0].startswith("-") or not hasattr(command, "commands"), f"no command {words[0]}"
    if words:  # else the bare name of a command, which may take arguments
        with contextlib.suppress(typer.Exit):  # --help
            command.make_context(name, words)  # reads all options and their values, runs nothing


def test_the_manual_names_every_command_with_what_it_does() -> None:
    shown = [line for page, line in command_lines() if page == "docs/index.md"]

    def names(command: Any, path: str) -> Iterator[str]:
        for name, child in getattr(command, "commands", {}).items():
            yield from names(child, f"{path} {name}")
        if not hasattr(command, "commands"):
            yield path

    assert [
        name for name in names(COMMANDS, "bmnas") if not any(f"{line} ".startswith(f"{name} ") for line in shown)
    ] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text_of(page)):
        outside = target.startswith("https://")
        assert outside or (ROOT / page).parent.joinpath(target).exists(), f"{page} links {target}"


def test_make_targets_that_a_page_shows_exist() -> None:
    rules = re.findall(r"^([a-z%-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    modules = {f"bench-{p.stem}" for p in (ROOT / "benchmarks").glob("*.py")}
    modules |= {f"soak-{p.stem}" for p in (ROOT / "tests" / "soak").glob("*.py")}
    for page in PAGES:
        for target in re.findall(r"\bmake\s+([a-z][a-z_-]+)`", text_of(page)):
            assert target in {*rules, *modules}, f"{page}: make {target}"


def test_the_readme_fits_on_three_screens() -> None:
    assert len(text_of("README.md").splitlines()) <= 75
