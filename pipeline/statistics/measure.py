"""From the tables of an evaluation to the content of metrics.json: pure functions, no files and no networks.

The tables are those of `cache_schemas.evaluation`; values are those of `pipeline.statistics.values`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd

from cache_schemas.metrics import METRICS_VERSION
from pipeline.statistics.abstention import measure_evidence
from pipeline.statistics.added import comparisons, headline, measure_matched, summary
from pipeline.statistics.calibrated import measure_calibration
from pipeline.statistics.localisation import measure_localisation
from pipeline.statistics.metrics import Floats
from pipeline.statistics.people import Draws
from pipeline.statistics.shortcuts import audit_shortcuts
from pipeline.statistics.systems import FUSION, measure_system, systems_of
from pipeline.statistics.tables import System
from pipeline.statistics.values import DRAWS, people_drawn

SMALL_CLIPS, SMALL_SUBJECTS, SMALL_CLASS = 100, 20, 20
"""A test split below one of these (clips, subjects, clips of the rarer class) is called small."""


def measure(clips: pd.DataFrame, scores: pd.DataFrame, *, seed: int = 0) -> dict[str, Any]:
    """The content of metrics.json; clips, scores: the rows of clips.csv and scores.csv, in any order; seed: of draws.

    Thresholds and calibrations are chosen on val. All systems are measured in the same draws of the test's people.
    """
    table, draws = _prepared(clips, seed)
    test = table[table["split"] == "test"]
    systems = systems_of(table, scores)
    entries, drawn = _measured(systems, table, draws, seed)
    fusion = systems.get(FUSION)
    compared = comparisons(entries, drawn)
    counts = _counts(test)
    small = why_small(counts)
    return {
        "schema_version": METRICS_VERSION,
        "headline": headline(entries, compared, counts),
        "summary": summary(entries),
        "intervals": {"level": 0.95, "over": "people", "people": counts["subjects"], "draws": DRAWS},
        "counts": counts,
        "small_set": small is not None,
        "small_set_reason": small,
        "systems": entries,
        "comparisons": compared,
        "matched": measure_matched(systems, draws, seed=seed),
        "calibration": measure_calibration(fusion.clip) if fusion else None,
        "evidence": measure_evidence(clips, scores, seed=seed),
        "localisation": measure_localisation(clips, scores, seed=seed),
        "shortcuts": audit_shortcuts(test, table, entries[FUSION]["clip"]["auc"]["value"] if fusion else None),
    }


def measure_systems(clips: pd.DataFrame, scores: pd.DataFrame, *, seed: int = 0) -> dict[str, Any]:
    """{system: its entry of metrics.json}, of the same tables."""
    table, draws = _prepared(clips, seed)
    return _measured(systems_of(table, scores), table, draws, seed)[0]


def _measured(
    systems: Mapping[str, System], table: pd.DataFrame, draws: Draws | str, seed: int
) -> tuple[dict[str, Any], dict[str, Floats | str]]:
    """({system: its entry}, {system: its clips' AUC in each draw, or why there is none}), a thread a processor."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        each = threads.map(lambda name: measure_system(name, systems[name], table, draws, seed=seed), systems)
        found = dict(zip(systems, each, strict=True))
    return {name: entry for name, (entry, _) in found.items()}, {name: drawn for name, (_, drawn) in found.items()}


def _prepared(clips: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, Draws | str]:
    """(the clips by clip_id, sorted; draws of the test's people for all its rows, or why there are none)."""
    table = clips.set_index("clip_id").sort_index()
    test = table[table["split"] == "test"]
    draws = people_drawn(test["subject_id"], seed=seed)
    if not isinstance(draws, str):  # nobody measures other rows than the test's in them
        draws = draws.of(np.maximum(test.index.get_indexer(table.index), 0))
    return table, draws


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
