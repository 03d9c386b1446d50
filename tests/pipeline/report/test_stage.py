from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup

from cache_schemas.content import cache_identity
from cache_schemas.features import FeatureCache
from cache_schemas.files import write_json, write_text
from cache_schemas.manifest import (
    Unused,
    read_manifest,
    read_quarantine,
    write_manifest,
    write_quarantine,
    write_unused,
)
from cache_schemas.metrics import read_metrics
from cache_schemas.run import RetrainRun, RunFileError, SearchRun, read_run, write_run
from pipeline.params import Params
from pipeline.report import stage as report
from pipeline.report.page import number, percent, signed
from pipeline.report.recompute import recompute
from pipeline.report.stage import CONTENTS, build_report
from pipeline.workspace import Workspace
from tests.pipeline.report.results import HOSTILE_NAME, Page, still, write_protocol
from tests.pipeline.run_fixture import HOSTILE, make_index, make_workspace, write_evaluation

pytestmark = pytest.mark.usefixtures("few_draws")


def test_all_sections_are_there_in_order(page: Page) -> None:
    ids = [attributes["id"] for tag, attributes in page.elements if tag == "section"]
    assert ids == list(CONTENTS)
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert links == ["#main", *(f"#{name}" for name in ids)]


def test_the_page_is_whole_without_scripts(html: str) -> None:
    """Every figure is drawn, and every one that the script draws again stands beside its specification."""
    svgs = re.findall(r"<svg[^>]*>", still(html))
    charts = re.findall(r'data-spec="([\w-]+)-spec"', html)
    assert charts == [
        "protocol0", "protocol1", "systems", "methods", "roc", "det", "reliability", "tippett", "risk",
        "robust-visual", "robust-audio",
    ]  # fmt: skip
    assert re.findall(r'<script type="application/json" id="([\w-]+)-spec">', html) == charts
    assert [f"{name}-title" for name in charts] == re.findall(r'aria-labelledby="([\w-]+) ', "".join(svgs))
    plots = re.findall(r'class="plot" role="img" aria-label="(\w+)"', still(html))
    assert plots == ["search", "probabilities", "history0", "history1", "retrain"]
    drawn = re.findall(r'class="genotype"[^>]*aria-label="([^"]+)"', still(html))
    assert len(drawn) == 2  # one per seed of fusion
    assert "visual/net.blocks.0" in drawn[0]
    assert "visual/net.blocks.1" in drawn[1]


def test_everybody_can_read_it(page: Page) -> None:
    """Landmarks, one first heading and no level skipped, captions and scopes, boxes that scroll by keyboard."""
    tags = [tag for tag, _ in page.elements]
    assert [tags.count(name) for name in ("main", "header", "nav", "h1")] == [1, 1, 1, 1]
    assert tags.count("caption") == tags.count("table")
    levels = [int(tag[1]) for tag in tags if re.fullmatch(r"h\d", tag)]
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all("scope" in attributes for tag, attributes in page.elements if tag == "th")
    scrolling = [a for _, a in page.elements if {"scroll", "chart"} & set((a.get("class") or "").split())]
    assert all(a["tabindex"] == "0" and a["role"] == "group" and a["aria-label"] for a in scrolling)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert all(a["alt"] for tag, a in page.elements if tag == "img")


def test_page_asks_nothing_of_the_network(page: Page, html: str) -> None:
    for tag, attributes in page.elements:
        assert tag not in {"iframe", "object", "embed", "base", "form"}
        assert tag != "script" or "src" not in attributes
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"src", "href", "xlink:href", "srcset", "action", "data"}:
                assert (value or "").startswith(("#", "data:,", "data:image/jpeg;base64,"))
    assert "@import" not in still(html)
    assert "url(" not in still(html).replace("url(#", "")
    policy = [a["content"] or "" for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    rules = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src( 'sha256-[^']+'){3}"
    assert re.fullmatch(rules, policy[0])


def test_it_is_no_larger_than_three_megabytes(html: str) -> None:
    assert len(html.encode()) < 3_000_000


def test_hostile_names_are_text(workspace: Workspace, page: Page, html: str) -> None:
    assert "<script" not in still(html)
    assert len(re.findall(r"<img ", still(html))) == len([a for tag, a in page.elements if tag == "img"])
    assert all((a["src"] or "").startswith("data:image/jpeg;base64,") for tag, a in page.elements if tag == "img")
    for text in (HOSTILE.path, HOSTILE.reason, HOSTILE_NAME):
        assert text in page.text
    cards = "".join((workspace.report / f"{name}-card.md").read_text() for name in ("model", "data"))
    assert "<script" not in cards
    assert "<img" not in cards


def test_two_builds_are_equal_bytes(workspace: Workspace, html: str) -> None:
    assert build_report(workspace, Params()).read_text(encoding="utf-8") == html


def test_the_first_screen_tells_seen_and_unseen_side_by_side(workspace: Workspace, page: Page) -> None:
    metrics = read_metrics(workspace.evaluate)
    head, adds = metrics["headline"], metrics["headline"]["adds"]
    first = page.text[: page.text.index("Protocols: seen and unseen")]
    assert f"{head['auc']['value']:.3f} {head['auc']['low']:.3f} to {head['auc']['high']:.3f}" in first
    worst = head["worst_method"]["method"]
    assert f"AUC of the 6 fakes by {worst} against all bona fide clips" in first
    assert f"{adds['difference']:+.3f}".replace("-", "\N{MINUS SIGN}") in first
    assert f"The difference of AUC to “{adds['control']}” ({metrics['systems'][adds['control']]['what']})" in first
    assert "sources never seen 0.590 0.510 to 0.670 AUC over the pairs of a fake and a bona fide clip inside 2" in first
    assert "Every test alike: AUC 0.630 (0.550 to 0.710)" in first
    minus = "\N{MINUS SIGN}"
    assert (
        f"{minus}0.020 to the strongest control, “{HOSTILE_NAME}” (interval of this difference: {minus}0.100" in first
    )
    assert "has another sign by each way of counting" in first
    assert "Unseen: methods of forgery never seen — Not measured. bmnas protocol leave-one-method-out" in first
    assert "an AUC (95 % interval) of 0.590 (0.510 to 0.670) on sources never seen and of" in first
    assert "Nobody of the test split is in training" in first
    assert metrics["small_set_reason"] in first
    assert "Leading silence tells them apart" in first
    assert "looked at 7 times" in first


def test_tables_repeat_the_metrics(workspace: Workspace, page: Page) -> None:
    metrics = read_metrics(workspace.evaluate)
    for name, system in metrics["systems"].items():
        assert f"{name} {system['what']}" in page.text
        auc = system["clip"]["auc"]
        assert f"{auc['value']:.3f} {auc['low']:.3f} to {auc['high']:.3f}" in page.text
    for part in ("per_category", "per_method", "per_group", "per_source"):
        for entry in metrics["systems"]["visual"][part].values():
            assert number(entry["auc"]["value"]) in page.text
            assert percent(entry["apcer"]["value"]).replace("\N{NO-BREAK SPACE}", " ") in page.text


def test_what_was_measured_is_shown(page: Page) -> None:
    assert "Not measured: AUC on methods of forgery never seen. bmnas protocol leave-one-method-out" in page.text
    assert page.text.count("Not measured:") == 3  # that, a matched subset, and where in a clip the fake is
    assert "log10 LR from -1.40 to 1.20" in page.text
    assert "No answer: face share 5 2 real, 3 fake" in page.text
    assert "H.264" in page.text
    assert "leading silence yes leading silence tells them apart" in page.text
    assert "epochs — not checked: another cache" in page.text


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


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small evaluated run, to be copied: to evaluate it takes a second."""
    return build(tmp_path_factory.mktemp("plain")).root


@pytest.fixture
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take seconds, and many tests are about words."""
    blank = dict.fromkeys(("search", "retrain", "probabilities"), Markup(""))
    monkeypatch.setattr(report, "_plots", lambda *_: blank)
    monkeypatch.setattr(report, "_histories", lambda _: [])


@pytest.fixture
def run(tmp_path: Path, plain: Path, without_plots: None) -> Workspace:
    return Workspace(Path(shutil.copytree(plain, tmp_path / "run")))


def build(tmp_path: Path, **kinds: Any) -> Workspace:
    index = make_index(subjects=10, **kinds)
    workspace = make_workspace(tmp_path, index, seeds=[0])
    write_evaluation(workspace, index, seeds=[0])
    return workspace


def text_of(workspace: Workspace) -> str:
    """The text of its report, built anew."""
    return Page(build_report(workspace, Params()).read_text(encoding="utf-8")).text


def test_changed_parameters_are_named(run: Workspace) -> None:
    now = Params.model_validate({"windows": {"window_s": 2.0}, "compute": {"workers": 3}})
    page = Page(build_report(run, now).read_text())
    assert "params.yaml has changed since: windows." in page.text
    assert "window_s: 4.0" in page.text  # what was used, not what stands there now


def test_results_of_another_cache_are_told(run: Workspace) -> None:
    here = cache_identity(FeatureCache.open(run.features))
    for folder, cache in ((run.sweep, "other"), (run.baselines, here)):
        write_text(folder / f"{folder.name}.csv", f"seed,cache\n0,{cache}\n1,{here}\n")
    metrics = json.loads((run.evaluate / "metrics.json").read_text())
    pages = []
    for cache in (here, "", "other"):
        write_json(run.evaluate / "metrics.json", metrics | {"cache": cache})
        pages.append(text_of(run))
    assert all("holds now, and no longer true of it: the results of sweep. Run" in page for page in pages[:2])
    assert "the results of evaluate, sweep. Run these commands again." in pages[2]


def test_a_detector_that_can_support_neither_side_says_so_on_its_report_and_card(run: Workspace) -> None:
    path = run.evaluate / "metrics.json"
    metrics = json.loads(path.read_text())
    write_json(path, metrics | {"calibration": (metrics["calibration"] or {}) | {"kind": None, "limits": [-0.1, 0.2]}})
    assert "It can support neither side, whatever it sees" in text_of(run)
    assert "It can support neither side" in (run.report / "model-card.md").read_text()


def test_undefined_numbers_carry_their_reason(tmp_path: Path) -> None:
    workspace = build(tmp_path, categories=("FVRA", "FVFA"))
    page = Page(build_report(workspace, Params()).read_text())
    assert "— one class only: no real clips" in page.text
    assert "nan" not in page.text.lower().split()
    assert "None" not in page.text.split()


@pytest.mark.usefixtures("without_plots")
def test_a_test_split_without_fakes_leaves_a_sentence(tmp_path: Path) -> None:
    workspace = build(tmp_path, categories=("RVRA",))
    assert "There is no fake clip in the test split." in text_of(workspace)


@pytest.mark.usefixtures("without_plots")
def test_leaks_are_loud(tmp_path: Path) -> None:
    index = make_index(subjects=40)
    index["leading_silence_s"] += index["label"]
    workspace = make_workspace(tmp_path, index, seeds=[0])
    write_evaluation(workspace, index, seeds=[0])
    page = Page(build_report(workspace, Params()).read_text())
    loud = [tag for tag, a in page.elements if "loud" in (a.get("class") or "").split()]
    assert loud == ["tr", "td", "td"]  # the property, on the test split and on all
    assert page.text.count("Leading silence alone separates fake from real") == 1  # at the top


def test_what_was_not_measured_says_so_and_by_which_command_it_is(run: Workspace) -> None:
    text = text_of(run)
    for command in ("protocol leave-one-source-out", "protocol leave-one-method-out", "robustness", "oracle"):
        assert f"bmnas {command} measures it." in text
    told = re.findall(r"Not measured: (.*?)\. bmnas", text)
    assert len(told) == 6
    assert {"what compression, scaling, noise and shifted sound cost", "AUC on sources never seen"} <= set(told)
    assert "How often this test set was looked at before is not known." in text


def test_the_folder_holds_what_its_figures_come_from(run: Workspace) -> None:
    write_protocol(run, "people", [("all", 0.9)])
    write_text(run.report / "protocols" / "gone" / "protocol.json", "{}")
    build_report(run, Params())
    for name in ("metrics.json", "scores.csv", "clips.csv"):
        assert (run.report / name).read_bytes() == (run.evaluate / name).read_bytes()
    for name in ("protocol.json", "scores.csv"):
        there = run.report / "protocols" / "people" / name
        assert there.read_bytes() == (run.protocols / "people" / name).read_bytes()
    assert [path.name for path in (run.report / "protocols").iterdir()] == ["people"]
    told = json.loads((run.report / "report.json").read_text())
    assert told["commands"][-2:] == ["bmnas report", "bmnas recompute work/report"]
    assert "bmnas protocol people" in told["commands"]
    assert set(told["protocols"]) == {"people"}
    assert {"manifest/manifest.csv", "retrain/fusion-0.safetensors", "evaluate/scores.csv"} <= set(told["digests"])


def test_a_damaged_table_of_a_protocol_is_named(run: Workspace) -> None:
    write_protocol(run, "people", [("all", 0.9)])
    path = run.protocols / "people" / "scores.csv"
    write_text(path, path.read_text().replace("0.5", "1.5"))
    with pytest.raises(RunFileError, match=r"scores\.csv: row 1, clip a: score is 1\.5.*run `bmnas protocol` again"):
        build_report(run, Params())


def test_the_folder_alone_gives_its_numbers_again(run: Workspace, tmp_path: Path) -> None:
    build_report(run, Params())
    found = recompute(Path(shutil.copytree(run.report, tmp_path / "sent")))
    assert found.different == []
    assert found.numbers > 500


@pytest.mark.usefixtures("without_plots")
def test_faces_may_be_left_out(workspace: Workspace, html: str) -> None:
    errors = html.count('<div class="error">')
    assert html.count("data:image/jpeg;base64,") == 2 * errors > 0  # a strip of faces and a spectrogram each
    assert "personal data" in html
    without = build_report(workspace, Params(), faces=False).read_text(encoding="utf-8")
    assert "data:image/jpeg" not in without
    assert "left out of this page on purpose" in without
    assert HOSTILE_NAME in Page(without).text  # the table stays


@pytest.mark.usefixtures("without_plots")
def test_a_run_without_the_searched_network_still_has_a_page(tmp_path: Path) -> None:
    index = make_index(subjects=10)
    workspace = make_workspace(tmp_path, index, seeds=[0])
    write_evaluation(workspace, index, seeds=[0], networks=("visual",))
    assert "Nothing can be said: no searched network was trained and scored." in text_of(workspace)


def test_of_few_people_the_page_tells_points_and_why_no_more(run: Workspace) -> None:
    head = read_metrics(run.evaluate)["headline"]
    few = "no interval: too few people (2; 6 needed)"
    adds = signed(head["adds"]["difference"])
    text = text_of(run)
    assert f"reaches an AUC (a coin: 0.5) of {head['auc']['value']:.3f}, {few}, on other people" in text
    assert f"AUC on other people of the test split; {few}" in text
    assert f"{adds} {few} The difference of AUC to “{head['adds']['control']}”" in text
    assert "No method of forgery has clips enough." in text
    assert not re.search(r"p [=<] 0|ranks fakes above|measured beside it", text)
    card = (run.report / "model-card.md").read_text()
    assert f"| {adds} ({few}), {head['adds']['control']} |" in card


def test_a_category_that_the_layout_assumes_is_no_measurement(run: Workspace) -> None:
    path = run.retrain / "retrain.json"
    trained = read_run(path, RetrainRun)
    assert "Assumed by the layout" not in text_of(run)
    write_run(path, trained.model_copy(update={"params": trained.params | {"data": {"root": "", "layout": "folders"}}}))
    said = "every fake counts as fake picture with real sound (FVRA)"
    text = text_of(run)
    before, card = text.split("Data card Clips per split")
    assert f"Categories Assumed by the layout, not measured: {said}" in before
    assert f"Assumed by the layout, not measured: {said}" in card
    assert f"Assumed by the layout: {said}" in (run.report / "data-card.md").read_text()


def test_no_quarantine_says_so(run: Workspace) -> None:
    for stage in report.QUARANTINE_STAGES:
        write_quarantine(run.quarantine(stage), [])
    assert "Every clip could be used." in text_of(run)
    assert read_quarantine(run.report / "quarantine.csv") == []


def test_searches_without_probabilities_have_no_empty_plot(tmp_path: Path) -> None:
    run = build(tmp_path)
    path = run.search / "search.json"
    entries = [e.model_copy(update={"probabilities": [], "history": {}}) for e in read_run(path, SearchRun).entries]
    write_run(path, SearchRun(entries=entries))
    assert "to prefer" not in text_of(run)


def test_missing_metrics_and_those_of_old_name_the_stage(run: Workspace) -> None:
    path = run.evaluate / "metrics.json"
    write_json(path, json.loads(path.read_text()) | {"schema_version": 1})
    with pytest.raises(RunFileError, match="of version 1, 2 is needed: run `bmnas evaluate` again"):
        build_report(run, Params())
    path.unlink()
    with pytest.raises(RunFileError, match="run `bmnas evaluate` first"):
        build_report(run, Params())
    assert not run.report.exists()


@pytest.mark.parametrize("role", ["subject_id", "source_id"])
def test_who_stands_in_two_splits_is_told(run: Workspace, role: str) -> None:
    """As subject, or as the donor of a test fake only. Clips that the cache does not hold do not count."""
    assert "Nobody stands in two splits" in text_of(run)
    clips = [replace(clip, split_kind="official") for clip in read_manifest(run.manifest)]
    trained = next(clip.subject_id for clip in clips if clip.split == "train")
    number = next(i for i, clip in enumerate(clips) if clip.split == "test")
    write_manifest(run.manifest, [*clips, replace(clips[number], clip_id="unknown", target_id="s01")])
    assert "Nobody stands in two splits" in text_of(run)
    clips[number] = replace(clips[number], **{role: trained})
    write_manifest(run.manifest, clips)
    donors = 1 if role == "source_id" else 0
    told = f"1 people stand in more than one split (the data set's official ones), {donors} of them"
    assert told in text_of(run)


def test_clips_that_no_split_holds_are_counted(run: Workspace) -> None:
    clips = read_manifest(run.manifest)
    write_unused(run.unused, [Unused(replace(clip, split=""), "people of two") for clip in clips[:3]])
    assert "3 more clips are in no split" in text_of(run)
