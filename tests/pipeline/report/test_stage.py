from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup

from cache_schemas.content import cache_identity
from cache_schemas.features import FeatureCache
from cache_schemas.files import write_json, write_text
from cache_schemas.manifest import (
    Quarantined,
    Unused,
    read_manifest,
    read_quarantine,
    write_manifest,
    write_quarantine,
    write_unused,
)
from cache_schemas.run import NETWORKS, RunFileError, SearchRun, read_run, write_run
from pipeline.params import Params
from pipeline.report import stage as report
from pipeline.report.stage import build_report, data_counts, quarantine_summary
from pipeline.runs.evaluate import read_metrics
from pipeline.workspace import Workspace
from tests.pipeline.run_fixture import HOSTILE, make_index, make_workspace, write_evaluation

CHROMIUM = shutil.which("chromium")


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._styled = False
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._styled = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._styled = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._styled else data + " "


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    index = make_index()
    made = make_workspace(tmp_path_factory.mktemp("work"), index)
    write_evaluation(made, index, seeds=(0, 1))
    return made


@pytest.fixture(scope="module")
def html(workspace: Workspace) -> str:
    path = build_report(workspace, Params())
    assert path == workspace.report / "report.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_all_sections_are_there_in_order(page: Page) -> None:
    ids = [attributes["id"] for tag, attributes in page.elements if tag == "section"]
    assert ids == [
        "results", "breakdown", "tradeoff", "architecture", "training", "shortcuts", "quarantine", "data", "parameters",
    ]  # fmt: skip
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert links == [f"#{name}" for name in ids]


def test_all_drawings_are_there(page: Page) -> None:
    svgs = [attributes for tag, attributes in page.elements if tag == "svg"]
    plots = [a["aria-label"] for a in svgs if a["class"] == "plot"]
    assert plots == ["roc", "det", "search", "probabilities", "history0", "history1", "retrain"]
    drawn = [a["aria-label"] or "" for a in svgs if a["class"] == "genotype"]
    assert len(drawn) == 2  # one per seed of fusion
    assert "visual/net.blocks.0" in drawn[0]
    assert "visual/net.blocks.1" in drawn[1]


def test_page_asks_nothing_of_the_network_and_runs_nothing(page: Page, html: str) -> None:
    for tag, attributes in page.elements:
        assert tag not in {"script", "iframe", "object", "embed", "img", "base", "form"}
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"src", "href", "xlink:href", "srcset", "action", "data"}:
                assert (value or "").startswith(("#", "data:,"))
    assert "@import" not in html
    assert "url(" not in html.replace("url(#", "")
    policy = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_nothing_makes_the_page_scroll_sideways_on_a_narrow_screen(html: str, tmp_path: Path) -> None:
    """What is wider than 500 px scrolls in its own box."""
    page = html.replace("b.mp4", "a/long/path/" * 12 + "b.mp4")
    assert page != html
    policy = 'http-equiv="Content-Security-Policy"'
    measure = "document.title = document.documentElement.scrollWidth - document.documentElement.clientWidth"
    probe = tmp_path / "probe.html"
    probe.write_text(page.replace(policy, "").replace("</body>", f"<script>{measure}</script></body>"))
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=500,2000",
        f"--user-data-dir={tmp_path}/user",
    ]
    command = [CHROMIUM or "", *options, "--dump-dom", probe.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "<title>0</title>" in dom


def test_hostile_names_are_text(page: Page, html: str) -> None:
    assert "<script" not in html
    assert "<img" not in html
    assert HOSTILE.path in page.text
    assert HOSTILE.reason in page.text


def test_two_builds_are_equal_bytes(workspace: Workspace, html: str) -> None:
    assert build_report(workspace, Params()).read_text(encoding="utf-8") == html


def test_headline_repeats_the_metrics(workspace: Workspace, page: Page) -> None:
    metrics = read_metrics(workspace)
    for network in [metrics["systems"][name] for name in NETWORKS]:
        auc = network["clip"]["auc"]
        assert f"{auc['value']:.3f}" in page.text
        assert f"{auc['low']:.3f} to {auc['high']:.3f}" in page.text
        for entry in (*network["per_category"].values(), *network["per_method"].values()):
            assert f"{entry['auc']['value']:.3f}" in page.text
            assert f"{100 * entry['eer']['value']:.1f}" in page.text
    assert metrics["small_set_reason"] in page.text
    assert "of 4 subjects" in page.text


def test_quarantine_is_merged(workspace: Workspace, page: Page) -> None:
    rows = read_quarantine(workspace.report / "quarantine.csv")
    assert {row.stage for row in rows} == {"manifest", "faces"}
    assert HOSTILE in rows
    assert "2 clips were left out" in page.text


def test_architectures_and_parameters_are_written_out(page: Page) -> None:
    assert "step 2 = LinearGLU(step 1, y)" in page.text
    assert "window_s: 4.0" in page.text
    assert "weights_sha256" in page.text
    assert "torch 2" in page.text
    assert "params.yaml has changed" not in page.text


def build(tmp_path: Path, **kinds: Any) -> Workspace:
    index = make_index(subjects=10, **kinds)
    workspace = make_workspace(tmp_path, index, seeds=[0])
    write_evaluation(workspace, index, seeds=[0])
    return workspace


def text_of(workspace: Workspace) -> str:
    """The text of its report, built anew."""
    return Page(build_report(workspace, Params()).read_text(encoding="utf-8")).text


@pytest.fixture
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take seconds, and many tests are about words."""
    blank = dict.fromkeys(("roc", "det", "search", "retrain", "probabilities"), Markup(""))
    monkeypatch.setattr(report, "_plots", lambda *_: blank)
    monkeypatch.setattr(report, "_histories", lambda _: [])


@pytest.mark.usefixtures("without_plots")
def test_changed_parameters_are_named(tmp_path: Path) -> None:
    now = Params.model_validate({"windows": {"window_s": 2.0}, "compute": {"workers": 3}})
    page = Page(build_report(build(tmp_path), now).read_text())
    assert "params.yaml has changed since: windows." in page.text
    assert "window_s: 4.0" in page.text  # what was used, not what stands there now


@pytest.mark.usefixtures("without_plots")
def test_results_of_another_cache_are_told(tmp_path: Path) -> None:
    workspace = build(tmp_path)
    here = cache_identity(FeatureCache.open(workspace.features))
    for folder, cache in ((workspace.sweep, "other"), (workspace.baselines, here)):
        write_text(folder / f"{folder.name}.csv", f"seed,cache\n0,{cache}\n1,{here}\n")
    metrics = json.loads((workspace.evaluate / "metrics.json").read_text())
    pages = []
    for cache in (here, "", "other"):
        write_json(workspace.evaluate / "metrics.json", metrics | {"cache": cache})
        pages.append(Page(build_report(workspace, Params()).read_text()).text)
    assert all("holds now, and no longer true of it: the results of sweep. Run" in page for page in pages[:2])
    assert "the results of evaluate, sweep. Run these commands again." in pages[2]


def test_undefined_numbers_carry_their_reason(tmp_path: Path) -> None:
    workspace = build(tmp_path, categories=("FVRA", "FVFA"))
    page = Page(build_report(workspace, Params()).read_text())
    assert "— one class only: no real clips" in page.text
    assert "nan" not in page.text.lower().split()
    assert "None" not in page.text.split()


@pytest.mark.usefixtures("without_plots")
def test_a_test_split_without_fakes_leaves_a_sentence(tmp_path: Path) -> None:
    workspace = build(tmp_path, categories=("RVRA",))
    assert "There is no fake clip in the test split." in Page(build_report(workspace, Params()).read_text()).text


@pytest.mark.usefixtures("without_plots")
def test_leaks_are_loud(tmp_path: Path) -> None:
    index = make_index(subjects=40)
    index["leading_silence_s"] += index["label"]
    workspace = make_workspace(tmp_path, index, seeds=[0])
    write_evaluation(workspace, index, seeds=[0])
    page = Page(build_report(workspace, Params()).read_text())
    loud = [a for tag, a in page.elements if tag == "tr" and a.get("class") == "loud"]
    assert len(loud) == 1
    assert page.text.count("leading_silence_s alone separates fake from real") == 2  # at the top, and in its section
    bars = [a["class"] for tag, a in page.elements if tag == "td" and "bar" in (a.get("class") or "").split()]
    assert bars.count("n bar loud") == 2
    assert len(bars) == 14


@pytest.mark.usefixtures("without_plots")
def test_no_quarantine_says_so(tmp_path: Path) -> None:
    workspace = build(tmp_path)
    for stage in report.QUARANTINE_STAGES:
        write_quarantine(workspace.quarantine(stage), [])
    assert "Every clip could be used." in Page(build_report(workspace, Params()).read_text()).text
    assert read_quarantine(workspace.report / "quarantine.csv") == []


def test_searches_without_probabilities_have_no_empty_plot(tmp_path: Path) -> None:
    workspace = build(tmp_path)
    path = workspace.search / "search.json"
    entries = [e.model_copy(update={"probabilities": [], "history": {}}) for e in read_run(path, SearchRun).entries]
    write_run(path, SearchRun(entries=entries))
    assert "to prefer" not in Page(build_report(workspace, Params()).read_text()).text


def test_missing_metrics_name_the_stage(tmp_path: Path) -> None:
    workspace = build(tmp_path)
    (workspace.evaluate / "metrics.json").unlink()
    with pytest.raises(RunFileError, match="bmnas evaluate"):
        build_report(workspace, Params())
    assert not workspace.report.exists()


def test_quarantine_summary_counts_and_caps(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Quarantined(f"c{i}", f"{i}.mp4", "faces", "no face" if i else "two faces") for i in range(5)]
    summary = quarantine_summary(rows)
    assert summary["reasons"] == [("faces", "no face", 4), ("faces", "two faces", 1)]
    assert (summary["total"], len(summary["rows"])) == (5, 5)
    monkeypatch.setattr(report, "MAX_QUARANTINE_ROWS", 3)
    assert [row.path for row in quarantine_summary(rows)["rows"]] == ["0.mp4", "1.mp4", "2.mp4"]
    assert quarantine_summary(rows)["total"] == 5


def test_data_counts() -> None:
    counts = data_counts(make_index(subjects=10, windows=3))
    assert counts["categories"] == ["FVFA", "FVRA", "RVFA", "RVRA"]
    assert [(row["split"], row["clips"], row["windows"], row["subjects"]) for row in counts["rows"]] == [
        ("train", 24, 72, 6),
        ("val", 8, 24, 2),
        ("test", 8, 24, 2),
    ]
    assert counts["rows"][0]["categories"] == [6, 6, 6, 6]


@pytest.mark.usefixtures("without_plots")
@pytest.mark.parametrize("role", ["subject_id", "source_id"])
def test_who_stands_in_two_splits_is_told(tmp_path: Path, role: str) -> None:
    """As subject, or as the donor of a test fake only. Clips that the cache does not hold do not count."""
    workspace = build(tmp_path)
    assert "Nobody stands in two splits" in text_of(workspace)
    clips = [replace(clip, split_kind="official") for clip in read_manifest(workspace.manifest)]
    trained = next(clip.subject_id for clip in clips if clip.split == "train")
    number = next(i for i, clip in enumerate(clips) if clip.split == "test")
    write_manifest(workspace.manifest, [*clips, replace(clips[number], clip_id="unknown", target_id="s01")])
    assert "Nobody stands in two splits" in text_of(workspace)
    clips[number] = replace(clips[number], **{role: trained})
    write_manifest(workspace.manifest, clips)
    donors = 1 if role == "source_id" else 0
    told = f"1 people stand in more than one split (the data set's official ones), {donors} of them"
    assert told in text_of(workspace)


@pytest.mark.usefixtures("without_plots")
def test_clips_that_no_split_holds_are_counted(tmp_path: Path) -> None:
    workspace = build(tmp_path)
    clips = read_manifest(workspace.manifest)
    write_unused(workspace.unused, [Unused(replace(clip, split=""), "people of two") for clip in clips[:3]])
    assert "3 more clips are in no split" in text_of(workspace)
