"""Numbers derived again of the tables: what was changed afterwards is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cache_schemas.evaluation import read_evaluation
from cache_schemas.files import write_json
from cache_schemas.run import RunFileError
from cache_schemas.tables import write_table
from pipeline.cli import app
from pipeline.report.recompute import recompute
from pipeline.runs.evaluate import write_results
from pipeline.runs.looks import name_of_test
from pipeline.statistics.audit import check_properties, check_random_weights
from pipeline.statistics.measure import measure
from tests.pipeline.run_fixture import make_clips, make_index, make_scores

pytestmark = pytest.mark.usefixtures("few_draws")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation of one network with two seeds, and its two controls."""
    folder, index = tmp_path_factory.mktemp("work") / "evaluate", make_index()
    clips, scores = make_clips(index), make_scores(index, seeds=(0, 1), networks=["fusion"])
    write_results(folder, clips, scores, measure(clips, scores, seed=3) | {"seed": 3, "cache": "c", "trained_on": "c"})
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "evaluate")
    return tmp_path / "evaluate"


def test_all_numbers_agree_with_their_tables(made: Path) -> None:
    found = recompute(made)
    assert found.different == []
    assert found.numbers > 500
    assert found.apart == [f"metrics.json: {name}" for name in ("seed", "cache", "trained_on")]
    assert recompute(made.parent).numbers == found.numbers


def changed(content: Any, *keys: str) -> Any:
    """The content with one digit of that number changed."""
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] += 0.01
    return content


@pytest.mark.parametrize(
    "keys",
    [
        ("systems", "fusion", "clip", "auc", "value"),
        ("systems", "properties, all together", "per_method", "wav2lip", "eer", "high"),
        ("calibration", "cllr", "after"),
        ("shortcuts", "chance", "all"),
    ],
)
def test_a_digit_that_was_changed_is_named(folder: Path, keys: tuple[str, ...]) -> None:
    path = folder / "metrics.json"
    told = json.loads(path.read_text())
    write_json(path, changed(told, *keys))
    (found,) = recompute(folder).different
    assert found.place == f"metrics.json: {'.'.join(keys)}"
    assert found.told == pytest.approx(found.derived + 0.01)


def test_a_score_that_was_changed_shows_in_every_number_of_it(folder: Path) -> None:
    _, scores = read_evaluation(folder)
    place = scores.index[(scores["system"] == "fusion") & (scores["split"] == "test") & (scores["label"] == 1)][0]
    scores.loc[place, "score"] = 0.0
    write_table(folder / "scores.csv", scores)
    names = {each.place for each in recompute(folder).different}
    assert "metrics.json: systems.fusion.clip.log_loss.value" in names
    assert "metrics.json: systems.fusion.window.brier.high" in names
    assert not [name for name in names if "systems.logistic regression" in name]


def test_of_audit_and_looks_the_tables_give_some(folder: Path) -> None:
    """What they do not is named: who stands in two splits, how often somebody looked."""
    clips, scores = read_evaluation(folder)
    table = clips.set_index("clip_id")
    checks = check_properties(table, trimmed=True), check_random_weights(table, scores, seed=3)
    audit = [*checks[0], {"check": "a person in two splits", "found": False, "says": "nobody"}, checks[1]]
    path = folder / "metrics.json"
    told = json.loads(path.read_text()) | {"audit": audit}
    told["looks"] = {"times": 3, "test": name_of_test(clips), "by": {"evaluate": 3}}
    write_json(path, told)
    found = recompute(folder)
    assert found.different == []
    names = ("audit: a person in two splits", "looks: times", "looks: by")
    assert found.apart[-3:] == [f"metrics.json: {name}" for name in names]
    told["audit"][1]["found"] = True
    told["looks"]["test"] = "another"
    write_json(path, told)
    places = [each.place for each in recompute(folder).different]
    assert places == ["metrics.json: audit.resolution.found", "metrics.json: looks.test"]


def test_a_number_without_origin_is_named(folder: Path) -> None:
    path = folder / "metrics.json"
    told = json.loads(path.read_text())
    told["systems"]["fusion"]["clip"]["accuracy"] = 0.99
    write_json(path, told)
    (found,) = recompute(folder).different
    assert (found.place, found.told, found.derived) == ("metrics.json: systems.fusion.clip.accuracy", 0.99, None)


def test_the_command_names_what_differs(folder: Path) -> None:
    told = CliRunner().invoke(app, ["recompute", str(folder)])
    assert (told.exit_code, "numbers agree" in told.stdout) == (0, True)
    path = folder / "metrics.json"
    write_json(path, changed(json.loads(path.read_text()), "systems", "fusion", "clip", "auc", "low"))
    told = CliRunner().invoke(app, ["recompute", str(folder)])
    assert (told.exit_code, "systems.fusion.clip.auc.low: told" in told.stdout) == (1, True)


def test_what_is_missing_or_old_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFileError, match=r"metrics\.json does not exist: run `bmnas evaluate`"):
        recompute(tmp_path / "nothing")
    (folder / "clips.csv").unlink()
    with pytest.raises(RunFileError, match=r"clips\.csv does not exist"):
        recompute(folder)
    write_json(folder / "metrics.json", {"schema_version": 1})
    with pytest.raises(RunFileError, match="is of version 1, 2 is needed: run `bmnas evaluate` again"):
        recompute(folder)
