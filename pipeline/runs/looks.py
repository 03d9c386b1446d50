"""How often the test split was looked at: every choice that its figures make lets them drift upwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd

from cache_schemas.files import digest
from cache_schemas.looks import Look, add_look, read_looks
from cache_schemas.run import RetrainRun
from pipeline.compute.progress import console
from pipeline.params import Params
from pipeline.runs.keys import settings_of
from pipeline.workspace import Workspace


def mark(workspace: Workspace, index: pd.DataFrame, command: str, *settings: Any) -> None:
    """Nothing; writes down that `command` scored the test split. To be called before its scores can be read.

    index: the cache's; settings: all that decides the scores, as JSON can write it. The same
    command with the same settings is the same look, however often it runs.
    """
    add_look(workspace.looks, Look(test=name_of_test(index), command=command, settings=digest(*settings)))


def looks_at(workspace: Workspace, index: pd.DataFrame) -> dict[str, Any]:
    """{times, test (a digest of the test split's clips), by: {command: times}}, the most frequent first."""
    test = name_of_test(index)
    found, damaged = read_looks(workspace.looks)
    if damaged:
        lines = ", ".join(map(str, damaged))
        console.print(f"[yellow]{workspace.looks}: damaged, and not counted: line {lines}", soft_wrap=True)
    by = Counter(look.command for look in found if look.test == test)
    return {"times": by.total(), "test": test, "by": dict(by.most_common())}


def settings_of_networks(run: RetrainRun) -> list[Any]:
    """All that decides what the retrained networks score: how they were found and trained, on which cache."""
    params = Params.model_validate(run.params)
    networks = [[entry.network, entry.seed, entry.genotype] for entry in run.entries]
    return [run.cache, settings_of(params.search), settings_of(params.retrain), networks]


def often(looks: Mapping[str, Any]) -> list[str]:
    """A line that says so, where a test split was looked at more than once; looks: what `looks_at` gives, or {}."""
    if looks.get("times", 0) < 2:
        return []
    by = ", ".join(f"{command} {times}" for command, times in looks["by"].items())
    return [
        f"This test set has been looked at {looks['times']} times ({by}): figures drift upwards with every choice made "
        "by them"
    ]


def name_of_test(table: pd.DataFrame) -> str:
    """Names the test split by its clips: other windows, features or labels of them make it no unseen one.

    table: clip_id and split of clips, or of windows.
    """
    return digest(sorted(set(table.loc[table["split"] == "test", "clip_id"])))
