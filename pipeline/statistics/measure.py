"""From the tables of an evaluation to the content of metrics.json: pure functions, no files and no networks.

The tables are those of `cache_schemas.evaluation`; values are those of `pipeline.statistics.values`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from pipeline.statistics.abstention import measure_evidence
from pipeline.statistics.added import comparisons, headline, summary
from pipeline.statistics.metrics import Floats
from pipeline.statistics.shortcuts import audit_shortcuts
from pipeline.statistics.systems import CONTROLS, FUSION, NETWORKS, measure_system
from pipeline.statistics.tables import system_of
from pipeline.statistics.values import DRAWS, people_drawn

SCHEMA_VERSION = 2
SMALL_CLIPS, SMALL_SUBJECTS, SMALL_CLASS = 100, 20, 20
"""A test split below one of these (clips, subjects, clips of the rarer class) is called small."""


def measure(clips: pd.DataFrame, scores: pd.DataFrame, *, seed: int = 0) -> dict[str, Any]:
    """The content of metrics.json; clips, scores: the rows of clips.csv and scores.csv, in any order; seed: of draws.

    Thresholds and calibrations are chosen on val. All systems are measured in the same draws of the test's people.
    """
    table = clips.set_index("clip_id").sort_index()
    test = table[table["split"] == "test"]
    counts = _counts(test)
    systems, drawn = _systems(table, scores, seed)
    compared = comparisons(systems, drawn)
    small = why_small(counts)
    fusion_auc = systems[FUSION]["clip"]["auc"]["value"] if FUSION in systems else None
    return {
        "schema_version": SCHEMA_VERSION,
        "headline": headline(systems, compared, counts),
        "summary": summary(systems),
        "intervals": {"level": 0.95, "over": "people", "people": counts["subjects"], "draws": DRAWS},
        "counts": counts,
        "small_set": small is not None,
        "small_set_reason": small,
        "systems": systems,
        "comparisons": compared,
        "evidence": measure_evidence(clips, scores, seed=seed),
        "localisation": None,
        "shortcuts": audit_shortcuts(test, table, fusion_auc),
    }


def measure_systems(clips: pd.DataFrame, scores: pd.DataFrame, *, seed: int = 0) -> dict[str, Any]:
    """{system: its entry of metrics.json}, of the same tables."""
    return _systems(clips.set_index("clip_id").sort_index(), scores, seed)[0]


def _systems(table: pd.DataFrame, scores: pd.DataFrame, seed: int) -> tuple[dict[str, Any], dict[str, Floats | str]]:
    """({system: its entry}, {system: its clips' AUC in each draw of the test's people, or why there is none})."""
    test = table[table["split"] == "test"]
    draws = people_drawn(test["subject_id"], seed=seed)
    if not isinstance(draws, str):  # for rows of the whole table: nobody measures others than the test's in them
        draws = draws.of(np.maximum(test.index.get_indexer(table.index), 0))
    of_system = dict(list(scores.groupby("system", sort=False)))
    known = [name for name in (*NETWORKS, *CONTROLS) if name in of_system]
    found, drawn = {}, {}
    for name in [*known, *(str(name) for name in of_system if name not in known)]:
        found[name], drawn[name] = measure_system(name, system_of(table, of_system[name]), table, draws, seed=seed)
    return found, drawn


def _counts(test: pd.DataFrame) -> dict[str, int]:
    return {
        "windows": int(test["windows"].sum()),
        "clips": len(test),
        "subjects": int(test["subject_id"].nunique()),
        "real_clips": int((test["label"] == 0).sum()),
        "fake_clips": int((test["label"] == 1).sum()),
    }


def why_small(counts: Mapping[str, int]) -> str | None:
    """Why a test split of so many clips, subjects, real_clips and fake_clips claims nothing; None where it may."""
    rarer = min(counts["real_clips"], counts["fake_clips"])
    enough = counts["clips"] >= SMALL_CLIPS and counts["subjects"] >= SMALL_SUBJECTS and rarer >= SMALL_CLASS
    if enough:
        return None
    return (
        f"The test split holds {counts['clips']} clips of {counts['subjects']} subjects ({counts['real_clips']} real, "
        f"{counts['fake_clips']} fake). That is too few to claim an accuracy: below {SMALL_CLIPS} clips, "
        f"{SMALL_SUBJECTS} subjects or {SMALL_CLASS} clips of either class, chance moves every number here by a lot."
    )
