"""The manual: its site asks nothing of other machines, and who does what its pages say gets what they say."""

from __future__ import annotations

import contextlib
import html
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import bmnas
from cache_schemas.manifest import read_manifest
from pipeline.cli import main
from pipeline.cli.reference import commands_page
from tests.pipeline.layout_suite import LayoutSuite
from tests.pipeline.tiny import TinyClips
from tests.test_readme import ROOT, blocks, text_of

CHROMIUM = shutil.which("chromium")
SMALL: dict[str, Any] = {
    "seeds": [0],
    "features": {"random_control": False, "pseudo": 0},
    "search": {"epochs": 3, "warmup_epochs": 1, "channels": 8, "candidates": 4},
    "retrain": {"epochs": 2, "channels": 8},
    "compute": {"workers": 1, "device": "cpu"},
}
"""Of a run over in a moment."""

Bmnas = Callable[[str], str]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly."""
    folder = tmp_path_factory.mktemp("manual") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture
def bmnas_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Bmnas:
    """Runs a command line of the manual in the project's folder, a new one beside the data; what it printed."""
    project = tmp_path / "bmnas"
    project.mkdir()
    monkeypatch.chdir(project)

    def run(line: str) -> str:
        monkeypatch.setattr(sys, "argv", line.split())
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capfd.readouterr()
        assert not ended.value.code, printed
        return printed.out.replace("\n", "")

    return run


def shell(text: str) -> list[str]:
    """The command lines of a page's ```bash blocks, one after another."""
    return [line for block in re.findall(r"^```bash\n(.*?)^```$", text, re.M | re.S) for line in block.splitlines()]


def stages() -> list[str]:
    """What `dvc repro report` runs of `bmnas`, in dvc.yaml's order, where the data are there already."""
    commands = [stage["cmd"] for stage in yaml.safe_load(text_of("dvc.yaml"))["stages"].values()]
    begin = "python -m pipeline.cli "
    return [f"bmnas {cmd.removeprefix(begin)}" for cmd in commands if cmd.startswith(begin) and "synth" not in cmd]


@pytest.mark.slow
def test_pages_of_the_site_load_nothing_from_elsewhere(site: Path) -> None:
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(pages) > 30
    tags = r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=[\"']?|url\([\"']?|@import [\"']"
    loads = rf"(?:{tags})(?:https?:)?//[^\"')\s>]+"
    found = {page.name: re.findall(loads, page.read_text(encoding="utf-8")) for page in pages}
    assert {name: urls for name, urls in found.items() if urls} == {}


@pytest.mark.slow
def test_formulas_are_drawn_and_can_be_read_aloud(site: Path) -> None:
    page = (site / "method.html").read_text(encoding="utf-8")
    formulas = [line for block in blocks("docs/method.md", "math") for line in block.splitlines()]
    assert len(formulas) > 10
    assert page.count('<svg role="img" aria-label=') == len(formulas)
    assert all(f'aria-label="{html.escape(formula)}"' in page for formula in formulas)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_nothing_scrolls_sideways_on_a_phone_and_nothing_is_asked_elsewhere(site: Path) -> None:
    from playwright.sync_api import sync_playwright

    asked: list[str] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.on("request", lambda request: asked.append(request.url))
        for name in ("index", "tutorial", "method", "real", "python"):
            page.goto((site / f"{name}.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") == 390, name
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def test_the_page_of_commands_is_that_of_the_code() -> None:
    assert text_of("docs/commands.md") == commands_page(), "run `make docs`"


def test_the_python_page_shows_every_name() -> None:
    shown = re.findall(r"^::: bmnas\.(\w+)$", text_of("docs/python.md"), flags=re.MULTILINE)
    assert sorted(shown) == sorted(bmnas.__all__)


def test_the_sums_of_the_limits_page_are_right() -> None:
    """Each block of Python prints the block of text behind it."""
    pairs = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", text_of("docs/limits.md"), re.DOTALL)
    assert len(pairs) == 2
    for code, expected in pairs:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, {})  # noqa: S102 - the manual's own code
        assert printed.getvalue() == expected


@pytest.mark.slow
@pytest.mark.usefixtures("few_draws")
def test_the_tutorial_word_by_word(synth_root: Path, tmp_path: Path, bmnas_here: Bmnas) -> None:
    """With the built-in clips in its folders and small networks; what installs is left out, DVC's part done by hand."""
    for path in sorted((synth_root / "clips").iterdir()):
        person, _, category = path.stem.split("_")
        if category not in ("RVRA", "FVFA"):
            continue  # one real and one fake clip a person are enough
        target = tmp_path / "videos" / ("real" if category == "RVRA" else "fake") / person / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    (change,) = blocks("docs/tutorial.md", "yaml")
    params = yaml.safe_load(text_of("params.yaml")) | yaml.safe_load(change)
    for key, value in SMALL.items():
        params[key] = value if isinstance(value, list) else params[key] | value
    params["split"] |= {"val": 0.3, "test": 0.3}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    lines = shell(text_of("docs/tutorial.md"))
    assert lines[:4] == ["make setup", "source .venv/bin/activate", "bmnas doctor", "bmnas synth --root ../videos"]
    said = {}
    for line in lines[4:]:
        for command in stages() if line == "dvc repro report" else [line]:
            said[command] = bmnas_here(command)
    assert len(read_manifest(Path("work/manifest/manifest.csv"))) == 12
    assert Path("work/report/report.html").is_file()
    assert "work/report/report.html" in said["bmnas report"]
    assert said["bmnas predict ../videos/real"].count(".mp4") == 6
    assert Path("detector.bmnas").is_file()


def sections() -> dict[str, str]:
    """{layout: its section of the page on data sets}; of `folders` and `csv` the last."""
    parts = text_of("docs/datasets.md").split("\n## ")[1:]
    with_parameters = [part for part in parts if "```yaml" in part]
    return {re.findall(r"layout: (\S+)", part)[0]: part for part in with_parameters}


def suites() -> dict[str, type[LayoutSuite]]:
    """{layout: the suite that writes a tree with the true names}."""
    from tests.pipeline.datasets import test_layouts

    found = [each for each in vars(test_layouts).values() if isinstance(each, type) and issubclass(each, LayoutSuite)]
    return {each.layout: each for each in found if each is not LayoutSuite}


def test_every_layout_has_its_how_to() -> None:
    assert sorted([*sections(), "synth"]) == sorted(suites())


@pytest.mark.parametrize("layout", sections())
def test_a_data_set_where_its_how_to_puts_it(layout: str, tmp_path: Path, tiny: TinyClips, bmnas_here: Bmnas) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", sections()[layout], re.DOTALL)
    params = yaml.safe_load(block)
    root = Path(params["data"]["root"]).resolve()
    assert root.parent == tmp_path
    root.mkdir()
    suites()[layout]().write(root, lambda path, fake=False: tiny.put(root / path, fake=fake))
    if layout == "fakeavceleb":
        params.pop("split")  # a tree of six people is too small to deal people out
    params["split"] = {"val": 0.3, "test": 0.3, **params.get("split", {})}
    Path("params.yaml").write_text(yaml.safe_dump({"max_failed_fraction": 0.9, **params, "compute": {"workers": 1}}))
    assert shell(text_of("docs/datasets.md"))[0] == "bmnas manifest --check"
    bmnas_here("bmnas manifest --check")
    assert Path("work/manifest/manifest.csv").is_file()
    # The paths that the page draws are those of such a tree.
    drawn = re.findall(r"[\w./-]+\.(?:csv|json)\b", sections()[layout].split("```yaml")[0])
    assert all(list(root.rglob(Path(name).name)) for name in drawn)
