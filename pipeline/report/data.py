"""What the data card and the quarantine section count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import pandas as pd

from cache_schemas.manifest import SPLITS, Quarantined, find_leaks, read_manifest, read_unused
from cache_schemas.windows import ClipWindows
from pipeline.statistics.tables import clips
from pipeline.workspace import Workspace

MAX_QUARANTINE_ROWS = 2000  # more rows than this stay in quarantine.csv: a page of a million rows opens in no browser


def data_counts(index: pd.DataFrame, *, window_s: float) -> dict[str, Any]:
    """Clips, windows, subjects and seconds per split; clips and people per source and method.

    index: as `pipeline.runs.cache.clip_index` gives it. used: the share of the seconds that windows cover.
    """
    table, used = clips(index), pd.Series(_used_seconds(index, window_s))
    categories = sorted(str(name) for name in table["category"].unique())
    rows = []
    for split in SPLITS:
        part = table[table["split"] == split]
        counts = Counter(str(name) for name in part["category"])
        seconds = float(part["duration_s"].sum())
        rows.append(
            {
                "split": split,
                "categories": [counts[name] for name in categories],
                "clips": len(part),
                "windows": int((index["split"] == split).sum()),
                "subjects": int(part["subject_id"].nunique()),
                "seconds": seconds,
                "used": float(used[part.index].sum()) / seconds if seconds else None,
            }
        )
    by_source = table.groupby(["dataset", "method"], sort=True)
    sources = [
        {"dataset": str(dataset), "method": str(method), "clips": len(own), "people": int(own["subject_id"].nunique())}
        for (dataset, method), own in by_source
    ]
    return {"categories": categories, "rows": rows, "sources": sources}


def _used_seconds(index: pd.DataFrame, window_s: float) -> dict[str, float]:
    """{clip_id: seconds of it that are in a window}"""
    found = {}
    for clip_id, own in index.groupby("clip_id", sort=False):
        length_s = float(own["duration_s"].iloc[0])
        windows = ClipWindows(str(clip_id), tuple(own["start_s"].sort_values()), min(window_s, length_s))
        found[str(clip_id)] = min(windows.covered_s, length_s)
    return found


def people_counts(workspace: Workspace, used: Collection[str]) -> dict[str, int]:
    """How many people are in two splits, of them as donors only, in clips that are used; and clips in no split."""
    leaks = find_leaks(clip for clip in read_manifest(workspace.manifest) if clip.clip_id in used)
    donors = sum(leak.donor_only for leak in leaks)
    return {"shared": len(leaks), "donors": donors, "unused": len(read_unused(workspace.unused))}


def quarantine_summary(rows: Sequence[Quarantined]) -> dict[str, Any]:
    """{total, reasons: [(stage, reason, clips)] the most frequent first, rows: at most MAX_QUARANTINE_ROWS}."""
    counts = Counter((row.stage, row.reason) for row in rows)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {
        "total": len(rows),
        "reasons": [(stage, reason, count) for (stage, reason), count in ordered[:MAX_QUARANTINE_ROWS]],
        "rows": sorted(rows, key=lambda row: (row.path, row.clip_id, row.stage))[:MAX_QUARANTINE_ROWS],
    }
