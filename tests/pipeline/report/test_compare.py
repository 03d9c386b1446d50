from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cache_schemas.evaluation import CLIPS, PROPERTIES, SCORES
from cache_schemas.files import write_json
from cache_schemas.run import RunFileError
from cache_schemas.tables import write_table
from pipeline.report.compare import CompareError, Run, compare, differing, read, verdict, write_comparison
from pipeline.statistics.compare import holm
from pipeline.workspace import Workspace
from tests.pipeline.report.results import HOSTILE_NAME, still, write_protocol

N = 60


def run(name: str, noise: float, *, seed: int = 0, clips: range = range(N), **parameters: Any) -> Run:
    """A run whose scores tell fakes from real ones through so much noise; two clips a person."""
    random = np.random.default_rng(seed)
    label = np.array([clip % 2 for clip in clips])
    people = [f"p{clip // 2}" for clip in clips]
    score = 1 / (1 + np.exp(-(label + noise * random.normal(size=len(label)))))
    ids = [f"c{clip:02d}" for clip in clips]
    scores = pd.DataFrame({"person": people, "label": label, "score": score}, index=pd.Index(ids, name="clip_id"))
    return Run(name, {"headline": None}, scores, [], parameters)


def test_what_is_far_apart_is_found_and_what_is_the_same_is_not() -> None:
    found = compare([run("good", 0.2), run("bad", 3.0, seed=1), run("good again", 0.2)])
    assert (found["clips"], found["fake_clips"], found["people"]) == (N, N // 2, N // 2)
    pairs = {(row["first"], row["second"]): row for row in found["pairs"]}
    apart, same = pairs["good", "bad"], pairs["good", "good again"]
    assert apart["low"] > 0
    assert apart["p_holm"] < 0.01
    assert apart["p_delong"] < 0.01
    assert (same["difference"], same["low"], same["high"], same["p_holm"]) == (0, 0, 0, 1)
    told = verdict(found)
    assert "good is better than bad; good again is better than bad" in told
    assert "bad is better" not in told.replace("than bad", "")


def test_p_values_are_those_of_holm_over_all_pairs() -> None:
    found = compare([run(str(seed), 2.0, seed=seed) for seed in range(3)])
    assert [row["p_holm"] for row in found["pairs"]] == pytest.approx(holm([row["p"] for row in found["pairs"]]))
    assert verdict(found).endswith("no run's AUC is better than another's beyond what chance makes.")


def test_of_few_people_no_run_is_called_better(tmp_path: Path) -> None:
    found = compare([run("good", 0.2, clips=range(10)), run("bad", 3.0, seed=1, clips=range(10))])
    few = "no interval: too few people (5; 6 needed)"
    assert verdict(found) == (
        f"On the 10 test clips of 5 people that all runs share, none can be called better than another; {few}."
    )
    (pair,) = found["pairs"]
    assert [pair[key] for key in ("low", "high", "p", "p_holm", "p_delong")] == [None] * 5
    assert pair["difference"] > 0
    assert pair["reason"] == found["runs"][0]["auc"]["reason"] == few
    out = tmp_path / "page.html"
    folders = [evaluated(tmp_path / name, noise, clips=range(10)) for name, noise in (("a", 0.2), ("b", 3.0))]
    write_comparison(folders, out)
    assert few in still(out.read_text(encoding="utf-8"))


def test_only_shared_clips_count() -> None:
    some = run("some", 0.5, clips=range(40))
    found = compare([run("all", 0.5), some])
    assert found["clips"] == 40
    assert found["runs"][0]["auc"] == compare([run("all", 0.5, clips=range(N)), some])["runs"][0]["auc"]
    with pytest.raises(CompareError, match="share 0 test clips"):
        compare([run("one", 0.5, clips=range(20)), run("other", 0.5, clips=range(20, 40))])


def test_runs_that_label_a_clip_otherwise_are_refused() -> None:
    other = run("other", 0.5)
    other.scores["label"] = 1 - other.scores["label"]
    with pytest.raises(CompareError, match="one and other do not agree which clips are fake"):
        compare([run("one", 0.5), other])


def test_parameters_that_differ_are_told() -> None:
    runs = [
        run("one", 1, search={"cells": 2, "epochs": 30}, compute={"workers": 1}),
        run("two", 1, search={"cells": 3, "epochs": 30}, compute={"workers": 8}, seed_of_all=4),
    ]
    assert differing(runs) == [("search.cells", ["2", "3"]), ("seed_of_all", ["—", "4"])]


def evaluated(root: Path, noise: float, *, clips: range = range(N)) -> Path:
    """A workspace of two seeds' scores on two windows of each clip, some of them val's."""
    made = run("", noise, clips=clips).scores
    rows = [
        {
            "clip_id": clip, "window": window, "start_s": 4.0 * window, "end_s": 4.0 * window + 4, "split": "test",
            "subject_id": of["person"], "category": "x", "method": "m", "label": of["label"],
            "clip_category": "FVFA" if of["label"] else "RVRA", "system": "fusion", "seed": seed,
            "score": of["score"],
        }
        for clip, of in made.iterrows() for window in (0, 1) for seed in (0, 1)
    ]  # fmt: skip
    table = pd.DataFrame(rows)[list(SCORES)]
    wrong = table.assign(score=1 - table["score"])
    both = pd.concat([table, wrong.assign(split="val", clip_id="v" + table["clip_id"])])
    both = pd.concat([both, both.assign(system="audio", score=1 - both["score"])])
    table = both.drop_duplicates("clip_id").assign(category=lambda of: of["clip_category"], windows=2)
    workspace = Workspace(root)
    lacking = {name: "" for name in CLIPS if name not in table} | dict.fromkeys(PROPERTIES, 1.0)
    write_table(workspace.evaluate / "clips.csv", table.assign(**lacking)[[*CLIPS, *PROPERTIES]])
    write_table(workspace.evaluate / "scores.csv", both)
    write_json(workspace.evaluate / "metrics.json", {"schema_version": 2, "headline": None})
    write_json(workspace.retrain / "retrain.json", {"params": {"search": {"cells": noise}}})
    return root


def test_a_page_and_its_json(tmp_path: Path) -> None:
    first, second = evaluated(tmp_path / "<b>one", 0.2), evaluated(tmp_path / "two", 3.0)
    write_protocol(Workspace(first), "leave-one-source-out", [(HOSTILE_NAME, 0.61)])
    out = tmp_path / "page.html"
    found = write_comparison([first, second], out)
    assert json.loads(out.with_suffix(".json").read_text()) == found
    page = out.read_text(encoding="utf-8")
    shown = still(page)
    assert shown.count("<svg") == page.count('type="application/json"') == 2
    assert "<b>" not in shown
    assert "&lt;b&gt;one" in shown
    assert "search.cells" in shown
    assert "0.610" in shown
    assert "bmnas protocol leave-one-method-out" in shown
    assert f"{found['pairs'][0]['difference']:+.3f}" in shown
    before = page
    write_comparison([first, second], out)
    assert out.read_text(encoding="utf-8") == before


def test_only_the_searched_network_on_test_is_read(tmp_path: Path) -> None:
    made = read(evaluated(tmp_path, 0.2))
    assert made.scores["score"].to_numpy() == pytest.approx(run("", 0.2).scores["score"].to_numpy())
    assert made.parameters == {"search": {"cells": 0.2}}


def test_too_few_runs_and_runs_without_scores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CompareError, match="two or more runs, each once"):
        write_comparison([tmp_path, tmp_path], tmp_path / "page.html")
    with pytest.raises(RunFileError, match="run `bmnas evaluate` first"):
        read(tmp_path)
    write_json(tmp_path / "metrics.json", {"schema_version": 1})
    with pytest.raises(RunFileError, match="run `bmnas evaluate` again"):
        read(tmp_path)
