"""Files of runs: what older versions wrote is read, what nobody wrote is refused."""

import json
from pathlib import Path

import pytest

from cache_schemas.run import Member, RetrainRun, RunFileError, SearchRun, read_run, write_run

DATA = Path(__file__).parent / "data"


def test_a_search_of_version_1_is_read_as_one_member_an_entry(tmp_path: Path) -> None:
    run = read_run(DATA / "search-1.json", SearchRun)
    assert [(entry.network, entry.seed, len(entry.members)) for entry in run.entries] == [
        ("fusion", 0, 1),
        ("visual", 0, 1),
    ]
    old = json.loads((DATA / "search-1.json").read_text())["entries"]
    assert [entry.genotype for entry in run.entries] == [entry["genotype"] for entry in old]
    assert [entry.members[0].score for entry in run.entries] == [0.75, None]
    assert run.cache == "5d0c"
    write_run(tmp_path / "search.json", run)
    assert read_run(tmp_path / "search.json", SearchRun) == run
    assert json.loads((tmp_path / "search.json").read_text())["schema_version"] == 2


def test_a_training_of_version_1_is_read_without_the_search_it_comes_from() -> None:
    run = read_run(DATA / "retrain-1.json", RetrainRun)
    assert [(entry.network, entry.seed, entry.search) for entry in run.entries] == [("fusion", 0, None)]


def test_the_best_member_speaks_for_its_search() -> None:
    (entry, _) = read_run(DATA / "search-1.json", SearchRun).entries
    best = Member(genotype={"cells": []}, score=0.5, trained=0.8)
    changed = entry.model_copy(update={"members": [best, *entry.members]})
    assert (changed.genotype, changed.score) == (best.genotype, 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"schema_version": 3}, "schema_version"), ({"entries": 3}, "entries"), ({"entries": [3]}, "entries")],
)
def test_what_no_version_wrote_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    for version in (1, 2):
        content = {"schema_version": version, "entries": []} | changes
        (tmp_path / "search.json").write_text(json.dumps(content))
        with pytest.raises(RunFileError, match=rf"search\.json: field {message}"):
            read_run(tmp_path / "search.json", SearchRun)
