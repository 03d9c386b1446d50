"""What commands print on 80 columns: paths and names stand there whole, to be copied."""

import csv
import hashlib
import io
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from cache_schemas.run import Member, SearchRun, read_run, write_run
from pipeline.cli import main
from pipeline.detector import export, predict
from pipeline.detector.export import Exported
from pipeline.detector.prediction import Band, Explanation, Moment, Person, Prediction, WindowScore
from pipeline.detector.road import DetectorError
from pipeline.manifest.show import print_copies
from pipeline.runs import worth
from pipeline.statistics.answers import Answer, cannot_tell
from pipeline.workspace import Workspace
from tests.pipeline.run_fixture import LAYERS, make_genotype, make_index, make_workspace

LONG = "a folder with a rather long name, as people have them/and another one in it, which is long, too"
Screen = Callable[..., list[str]]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path / LONG, make_index(subjects=5), seeds=[0])


@pytest.fixture(autouse=True)
def _said_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the detector that lies in no `work` of these tests."""
    monkeypatch.setattr(worth, "kept_first", lambda _: ["It can support neither side."])


@pytest.fixture
def screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Screen:
    """Calls a command in a folder that has only an empty `work`; returns the lines that it printed."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: object) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["bmnas", *map(str, arguments)])
        with pytest.raises(SystemExit):
            main()
        lines = capfd.readouterr().out.splitlines()
        boxes = [line for line in lines if line.startswith(("┏", "┃", "│", "└"))]
        assert max(map(len, boxes), default=0) <= 80
        return [line.rstrip() for line in lines]

    return call


def test_cache_info(workspace: Workspace, screen: Screen) -> None:
    lines = screen("cache", "info", workspace.features)
    assert str(workspace.features) in lines
    for name in LAYERS:
        modality, _, stage = name.partition("/net.")
        (first,) = (i for i, line in enumerate(lines) if line.startswith(f"{modality}/net-"))
        assert any(f" {stage} " in line for line in lines[first : first + 9])


def test_cache_stats(workspace: Workspace, screen: Screen) -> None:
    lines = screen("cache", "stats", workspace.features)
    for name in LAYERS:
        assert any(f" {name.partition('/net.')[2]} " in line for line in lines)


def test_genotype_diff(workspace: Workspace, screen: Screen) -> None:
    old, new = workspace.search / "search.json", workspace.root / "other.json"
    (entry, *_) = read_run(old, SearchRun).entries
    other = make_genotype("fusion", 1).model_dump(mode="json")
    write_run(new, SearchRun(entries=[entry.model_copy(update={"members": [Member(genotype=other)]})]))
    lines = screen("genotype", "diff", old, new)
    assert f"old: {old}" in lines
    assert f"new: {new}" in lines
    assert any("visual/net.blocks.1" in line for line in lines)


def test_predict(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = tuple(WindowScore(4.0 * i, 0.5) for i in range(8))
    told = Answer("weak support for a fake", 0.5, 0.8, (-1.3, 0.9), 0.86)
    why = "unlike anything it was trained on: its [sound] lies far"
    found = [
        Prediction(f"{LONG}/a.mp4", 0.5, windows, answer=told, modalities={"audio": cannot_tell(why, score=0.9)}),
        Prediction(f"{LONG}/[b].mp4", None, reason="no media", answer=cannot_tell("no media")),
    ]
    monkeypatch.setattr(predict, "predict", lambda *_, **__: found)
    lines = [line.strip() for line in screen("predict", "a.mp4", "[b].mp4")]
    assert lines[0] == "Before you rely on it: It can support neither side."
    first, second = lines.index(f"{LONG}/a.mp4"), lines.index(f"{LONG}/[b].mp4")
    assert lines[first + 1] == "picture and sound  weak support for a fake"
    assert lines[first + 2] == "log10 LR +0.80 (claims end at -1.30 and +0.90); at even odds P(fake) 0.86"
    assert lines[first + 3] == f"sound alone        cannot tell: {why}"
    assert lines[first + 4].startswith("the networks       one network alone: ")
    assert lines[first + 5] == "raw P(fake)        0.500, no evidence by itself"
    assert lines[first + 6].startswith("from second 0: 0.500  4: 0.500")
    assert lines[second + 1] == "cannot tell: no media"


def person(first_s: float, answer: Answer) -> Person:
    return Person(first_s, first_s + 4, 0.5, (), answer, {"visual": Answer("no support either way", 0.5)}, {})


PEOPLE = (
    person(0, cannot_tell("too little face")),
    person(4, Answer("weak support for a fake", 0.6, 0.8, (-1.3, 0.9), 0.86)),
    *(person(8 + i, Answer("weak support for a real clip", 0.1, -0.8, (-1.3, 0.9), 0.14)) for i in range(5)),
)


def test_predict_shows_the_faces_that_speak_most_for_a_fake(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    found = replace(FOUND[0], people=PEOPLE)
    monkeypatch.setattr(predict, "predict", lambda *_, **__: [found])
    lines = [line.strip() for line in screen("predict", "a.mp4")]
    faces = [i for i, line in enumerate(lines) if line.startswith("a face ")]
    assert lines[faces[0]].split(maxsplit=2)[2] == "seen from second 4.0 to 8.0"
    assert lines[faces[0] + 1].endswith("weak support for a fake")
    assert lines[faces[0] + 3] == "picture alone      no support either way"
    assert len(faces) == 5
    assert "and 2 more that speak less for a fake: --json has them all" in lines


def test_a_row_of_the_table_says_what_the_strongest_other_face_is(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "predict", lambda *_, **__: [replace(FOUND[0], people=PEOPLE), FOUND[1]])
    several, none = csv.DictReader(screen("predict", "a.mp4", "b.mp4", "--csv"))
    other = {name: value for name, value in several.items() if name.startswith("other")}
    assert other == {
        "others": "7",
        "other_answer": "weak support for a fake",
        "other_log10_lr": "0.8",
        "other_from_s": "4",
        "other_to_s": "8",
    }
    assert (none["others"], none["other_answer"], none["other_to_s"]) == ("0", "", "")


def test_an_empty_list_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    monkeypatch.setattr(sys, "argv", ["bmnas", "predict", "-"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "standard input lists no file" in capfd.readouterr().err


def test_predict_says_what_the_score_hangs_on(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = tuple(Moment(0.5 * i, 0.5 * i + 0.5, 0.1 * i) for i in range(8))
    why = Explanation(0.25, moments, {"visual/[b].4": 0.84}, {"mouth": -0.1, "eyes": 0.5}, (Band(0.0, 365.4, 0.2),))
    found = [Prediction("a.mp4", 0.5, (WindowScore(0.25, 0.5),), explanation=why)]
    asked = dict[str, object]()
    monkeypatch.setattr(predict, "predict", lambda *_, **given: asked.update(given) or found)
    lines = [" ".join(line.split()) for line in screen("predict", "a.mp4", "--explain")]
    first = next(i for i, line in enumerate(lines) if line.startswith("why"))
    assert lines[first : first + 8] == [
        "why log10 odds of the raw P(fake) fall by so much without it",
        "when 3.5 to 4.0 s: +0.70 3.0 to 3.5 s: +0.60 2.5 to 3.0 s: +0.50 2.0 to 2.5 s: +0.40",
        "and 4 more",
        "layers visual/[b].4: +0.84",
        "face eyes: +0.50 mouth: -0.10",
        "window from second 0.2",
        "sound 0 to 365 Hz: +0.20",
        "window from second 0.2",
    ]
    assert asked["explain"] is True


def test_predict_without_a_run_names_bundles_as_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.bmnas").touch()
    for given, way_out, code in ([], "--bundle FILE", 1), (["--work", "d.bmnas"], "--bundle d.bmnas", 2):
        monkeypatch.setattr(sys, "argv", ["bmnas", "predict", "a.mp4", *given])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == code
        assert way_out in " ".join(capfd.readouterr().err.replace("│", " ").split())


def test_paragraphs_of_help_flow_to_the_width_of_the_screen(screen: Screen) -> None:
    lines = [line.strip() for line in screen("predict", "--help")]
    first = next(i for i, line in enumerate(lines) if line.startswith("They cannot"))
    paragraph = lines[first : lines.index("", first)]
    assert min(map(len, paragraph[:-1])) > 60  # none is a short rest of a line of the source


def test_backbones_have_their_whole_names_on_any_screen(screen: Screen) -> None:
    lines = screen("backbones", "efficientnet_lite")
    assert "tf_efficientnet_lite0" in lines
    assert "  layers: blocks.0 (16), blocks.1 (24), blocks.2 (40), blocks.4 (112), blocks.6 (320)" in lines


def test_many_files_have_a_bar_while_their_answers_go_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Answers are in the file that standard output is, and the bar on the terminal."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(predict, "predict", lambda *_, **__: FOUND)
    monkeypatch.setattr("pipeline.compute.progress.console", Console(stderr=True, force_terminal=True, width=80))
    monkeypatch.setattr(sys, "argv", ["bmnas", "predict", "a.mp4", "b.mp4", "--json"])
    with pytest.raises(SystemExit):
        main()
    out, err = capfd.readouterr()
    assert [json.loads(line)["path"] for line in out.splitlines()] == ["=cmd.mp4", "a\udcff\x1b.mp4"]
    assert "predict" in err
    assert "2/2" in err


def test_the_bar_moves_within_a_long_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    moved = list[float]()

    @contextmanager
    def bar(*_: object, **__: object) -> Iterator[Callable[[float], None]]:
        yield moved.append

    def in_stretches(*_: object, progress: Callable[[float], None], **__: object) -> Iterator[Prediction]:
        progress(0.25)
        progress(0.75)  # and nobody is seen in the rest
        yield from FOUND

    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(predict, "predict", in_stretches)
    monkeypatch.setattr("pipeline.compute.progress.progress_bar", bar)
    monkeypatch.setattr(sys, "argv", ["bmnas", "predict", "a.mp4", "b.mp4", "--json"])
    with pytest.raises(SystemExit):
        main()
    assert moved == [0.25, 0.5, 0.25, 1]


FOUND = [
    Prediction(
        "=cmd.mp4", 0.5, (WindowScore(0.0, 0.5),), answer=Answer("weak", 0.5, 0.8, (-1.3, 0.9), 0.86),
        modalities={"visual": Answer("no support", 0.5), "audio": cannot_tell("no such network was trained")},
    ),
    Prediction("a\udcff\x1b.mp4", None, reason="no media", answer=cannot_tell("no media\x1b[2J")),
]  # fmt: skip


def test_predict_prints_json_as_files_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line is out, and not in a buffer, before the next file is looked at."""
    (tmp_path / "empty").mkdir()
    out, ends = io.BytesIO(), [0]
    stdout = io.TextIOWrapper(out, encoding="utf-8")

    def one_by_one(
        *_: object, hop_s: float | None, faces: str, explain: bool, show: object, progress: object
    ) -> Iterator[Prediction]:
        assert (hop_s, faces, explain, show) == (2.5, "main", False, None)
        for prediction in FOUND:
            ends.append(len(out.getvalue()))
            yield prediction

    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(predict, "predict", one_by_one)
    monkeypatch.setattr(
        sys, "argv", ["bmnas", "predict", "a.mp4", "empty", "b.mp4", "--json", "--hop", "2.5", "--faces", "main"]
    )
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        with pytest.raises(SystemExit) as ended:
            main()
        ends.append(len(out.getvalue()))
    assert ended.value.code == 1
    text = out.getvalue()
    lines = [json.loads(text[start:end]) for start, end in itertools.pairwise(ends)]  # one each time, one line each
    assert [line["path"] for line in lines] == ["empty", "=cmd.mp4", "a\udcff\x1b.mp4"]
    assert lines[0]["reason"] == "no file in this folder is named as media are"
    assert lines[1]["answer"]["log10_lr"] == 0.8


@pytest.mark.parametrize(("asked", "found", "code"), [("a.mp4", 0, 0), ("empty", 0, 1), ("b.mp4", 1, 1)])
def test_predict_ends_with_1_where_anything_was_not_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, found: int, code: int
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(predict, "predict", lambda _, files, *__, **___: [FOUND[found]] * len(files))
    monkeypatch.setattr(sys, "argv", ["bmnas", "predict", "a.mp4", asked])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code or 0) == code


def test_predict_prints_a_table_that_spreadsheets_take_for_one(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "predict", lambda *_, **__: FOUND)
    rows = list(csv.DictReader(screen("predict", "a.mp4", "--csv")))
    assert [row["path"] for row in rows] == ["./=cmd.mp4", "a%FF%1B.mp4"]
    assert (rows[0]["log10_lr"], rows[0]["lowest"], rows[0]["windows"]) == ("0.8", "-1.3", "1")
    assert (rows[0]["picture"], rows[0]["sound"]) == ("no support", "cannot tell: no such network was trained")
    assert (rows[1]["answer"], rows[1]["score"], rows[1]["picture"]) == ("cannot tell: no media%1B[2J", "", "")


def test_what_others_wrote_says_nothing_to_a_terminal(
    screen: Screen, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Reasons and errors quote files and bundles of anybody's."""
    monkeypatch.setattr(predict, "predict", lambda *_, **__: FOUND)
    said = "\n".join(screen("predict", "a.mp4"))
    assert "cannot tell: no media%1B[2J" in said
    assert "\x1b" not in said

    def refuse(*_: object, **__: object) -> None:
        raise DetectorError("[b]\x1b[2J\nthe next line")

    monkeypatch.setattr(predict, "predict", refuse)
    monkeypatch.setattr(sys, "argv", ["bmnas", "predict", "a.mp4"])
    with pytest.raises(SystemExit):
        main()
    assert capfd.readouterr().err == "error: [b]%1B[2J\nthe next line\n"


def test_bundle_show(screen: Screen, tmp_path: Path) -> None:
    bundle = Path(__file__).parents[1] / "detector" / "data" / "format-1.bmnas"
    lines = screen("bundle", "show", bundle)
    assert lines[0] == str(bundle)
    cells = [line.split("│")[2].strip() for line in lines if line.startswith("│")]
    assert hashlib.sha256(bundle.read_bytes()).hexdigest() in cells  # whole, to be copied
    assert "nobody you named: give --key to be sure" in cells
    card = json.loads("".join(screen("bundle", "show", bundle, "--json")))
    assert card["file"] == str(bundle)
    assert card["networks"] == {"fusion": [0]}


def test_evaluate_is_told_how_much_face_and_speech_there_is(
    workspace: Workspace, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, object] = {}
    monkeypatch.setattr("pipeline.features.shown.shown_and_heard", lambda *_: "what the shards know")
    monkeypatch.setattr("pipeline.runs.evaluate.evaluate", lambda *_, **given: told.update(given))
    monkeypatch.setattr("pipeline.runs.evaluate.print_metrics", lambda *_: None)
    screen("evaluate", "--params", Path(__file__).parents[3] / "params.yaml", "--work", workspace.root)
    assert told["shown"] == "what the shards know"


def test_export(workspace: Workspace, screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    file = f"{LONG}/fusion.onnx"
    monkeypatch.setattr(
        export,
        "export_networks",
        lambda *_, **__: Exported((0, 1), tuple(LAYERS), 1, 1, {"batch 1": 1.0}, {file: 1e-7}),
    )
    lines = screen("export", "--work", workspace.root)
    assert f"{file}: written; differs from PyTorch by 1.0e-07 at most" in lines


def test_copies_of_a_manifest_check() -> None:
    file = StringIO()
    copies = [{"kept": f"{LONG}/a.mp4", "dropped": [f"{LONG}/[b].mp4"]}, {"kept": None, "dropped": ["x.mp4", "y.mp4"]}]
    print_copies(copies, Console(file=file, width=80))
    lines = [line.strip() for line in file.getvalue().splitlines()]
    assert f"kept {LONG}/a.mp4" in lines
    assert f"dropped {LONG}/[b].mp4" in lines
    assert "kept none: the labels contradict" in lines
