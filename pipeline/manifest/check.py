"""`bmnas manifest --check`: what a careful person wants to know of a data set before using it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from cache_schemas.files import write_json
from cache_schemas.manifest import (
    SPLITS,
    Clip,
    Leak,
    Quarantined,
    Unused,
    find_leaks,
    leaks_between,
    read_manifest,
    read_quarantine,
    read_unused,
)
from cache_schemas.paths import path_name, path_text
from pipeline.datasets import LAYOUTS, Layout
from pipeline.manifest.build import files_without_entry
from pipeline.manifest.facts import ClipFacts, measure_clips
from pipeline.manifest.splits import identity_components
from pipeline.manifest.warn import warnings
from pipeline.media import MediaError
from pipeline.params import Params, SplitParams, WindowParams
from pipeline.shards.windows import plan_windows
from pipeline.statistics.shortcuts import chance_auc, shortcut_auc
from pipeline.workspace import Workspace

LOUD_AUC = 0.6
"""A property that tells fake from real better than this, and than chance in so few clips, is called suspicious."""

NUMBERS = (
    "duration_s", "fps", "width_px", "height_px", "pixel_aspect", "bit_depth", "interlaced", "bit_rate_kbps",
    "file_bytes", "has_audio", "sample_rate_hz", "loudness_db", "leading_silence_s",
)  # fmt: skip
NAMES = ("resolution", "container", "video_codec", "transfer", "audio_codec", "channels", "dataset", "group")
OF_SOUND = frozenset({"sample_rate_hz", "loudness_db", "leading_silence_s", "audio_codec", "channels"})
"""Compared among clips with a sound track: what its absence tells, has_audio tells."""
LABELS = ("label", "video_label", "audio_label")
CLASSES = ("real", "fake")
_MOST_VALUES = 20


def check_manifest(workspace: Workspace, params: Params) -> dict[str, Any]:
    """What there is to know of the workspace's manifest; also written to `workspace.check`."""
    clips, unused = read_manifest(workspace.manifest), read_unused(workspace.unused)
    facts = measure_clips(clips, workspace.check / "facts.jsonl", params)
    quarantined = read_quarantine(workspace.quarantine("manifest"))
    listed = [*clips, *(row.clip for row in unused)]
    named = [*(row.path for row in quarantined), *(path for clip in listed for path in (clip.path, clip.audio_path))]
    root, layout = Path(params.data.root), params.data.layout
    left_out = [path_text(path) for path in files_without_entry(root, layout, map(path_name, named))]
    result = check(
        clips,
        facts,
        quarantined,
        unused=unused,
        left_out=left_out,
        split=params.split,
        windows=params.windows,
        layout=LAYOUTS[layout],
    )
    write_json(workspace.check / "manifest.json", result)
    return result


def check(
    clips: Sequence[Clip],
    facts: Mapping[str, ClipFacts],
    quarantined: Sequence[Quarantined],
    *,
    unused: Sequence[Unused] = (),
    left_out: Sequence[str] = (),
    split: SplitParams,
    windows: WindowParams,
    layout: Layout,
) -> dict[str, Any]:
    """The content of check/manifest.json: plain JSON types, nothing is NaN.

    quarantined, unused: those of the manifest stage; left_out: files that no entry of the data set names.
    """
    table = clip_table(clips, facts)
    splits_of = {"split": lambda clip: clip.split, "official": lambda clip: clip.official_split}
    everything = [*clips, *(row.clip for row in unused)]
    leaks = {kind: find_leaks(everything, of) for kind, of in splits_of.items()}
    result: dict[str, Any] = {
        "schema_version": 1,
        "clips": len(clips),
        "identity": layout.identity,
        "assumed": layout.assumed,
        "unusable": unusable(facts, quarantined),
        "left_out": {"files": len(left_out), "first": list(left_out[:_MOST_VALUES])},
        "counts": counts(clips),
        "kept": kept(clips, unused),
        "groups": groups(clips),
        "people": people(clips),
        "leaks": {kind: [_leak(leak) for leak in found] for kind, found in leaks.items()},
        "leaks_between": {kind: _between(found) for kind, found in leaks.items()},
        "seen_in_train": {kind: seen_in_train(everything, of) for kind, of in splits_of.items()},
        "duplicates": duplicates(clips, quarantined),
        "segments": segments(clips, facts),
        "seconds": seconds(clips, facts, windows),
        "properties": {name: {side: describe(table, name, side) for side in CLASSES} for name in (*NUMBERS, *NAMES)},
        "shortcuts": shortcuts(table),
    }
    return result | {"warnings": warnings(result, split)}


def clip_table(clips: Sequence[Clip], facts: Mapping[str, ClipFacts]) -> pd.DataFrame:
    """One row a clip: labels, dataset and every property; NaN (None for names) where it is not known."""
    rows = []
    for clip in clips:
        known = facts[clip.clip_id]
        row = asdict(known) | {name: getattr(clip, name) for name in (*LABELS, "dataset", "file_bytes")}
        row["group"] = clip.group or None
        decoded = not known.reason
        row["has_audio"] = float(known.audio_codec is not None) if decoded else None
        row["resolution"] = f"{known.width_px}x{known.height_px}" if known.width_px else None
        row["bit_rate_kbps"] = clip.file_bytes * 0.008 / known.duration_s if known.duration_s else None
        rows.append(row)
    frame = pd.DataFrame(rows)
    return frame.astype(dict.fromkeys((*NUMBERS, *LABELS), float))


def counts(clips: Sequence[Clip]) -> list[dict[str, Any]]:
    """Clips per split, category and method, in that order."""
    found = Counter((clip.split, clip.category, clip.method) for clip in clips)
    ordered = sorted(found.items(), key=lambda item: (SPLITS.index(item[0][0]), *item[0][1:]))
    return [{"split": s, "category": c, "method": m, "clips": number} for (s, c, m), number in ordered]


def kept(clips: Sequence[Clip], unused: Sequence[Unused]) -> list[dict[str, Any]]:
    """Per category and method, how many clips are in a split, of how many that there are."""
    used = Counter((clip.category, clip.method) for clip in clips)
    found = used + Counter((row.clip.category, row.clip.method) for row in unused)
    return [{"category": c, "method": m, "kept": used[c, m], "of": number} for (c, m), number in sorted(found.items())]


def seen_in_train(clips: Sequence[Clip], split_of: Callable[[Clip], str]) -> dict[str, dict[str, int]]:
    """For val and test, how many clips have somebody in them, as subject, source or target, who is in train."""
    trained = {person for clip in clips if split_of(clip) == "train" for person in clip.people}
    found: dict[str, dict[str, int]] = {}
    for split in ("val", "test"):
        there = [clip for clip in clips if split_of(clip) == split]
        found[split] = {"clips": sum(not trained.isdisjoint(clip.people) for clip in there), "of": len(there)}
    return found


def groups(clips: Sequence[Clip]) -> list[dict[str, Any]]:
    """Clips, per class and per split, and subjects per demographic group, where the data set says, by name."""
    found: dict[str, list[Clip]] = {}
    for clip in clips:
        if clip.group:
            found.setdefault(clip.group, []).append(clip)
    return [
        {
            "group": name,
            "real_clips": sum(not clip.label for clip in those),
            "fake_clips": sum(clip.label for clip in those),
            "subjects": len({clip.subject_id for clip in those}),
            "splits": {split: sum(clip.split == split for clip in those) for split in SPLITS},
        }
        for name, those in sorted(found.items())
    ]


def people(clips: Sequence[Clip]) -> dict[str, Any]:
    """Who is in it: per split, and how they hang together."""
    groups = identity_components(clips)
    classes: dict[str, set[int]] = {}
    for clip in clips:
        classes.setdefault(clip.subject_id, set()).add(clip.label)
    return {
        "splits": {
            split: {
                "clips": sum(clip.split == split for clip in clips),
                "real_clips": sum(clip.split == split and not clip.label for clip in clips),
                "fake_clips": sum(clip.split == split and clip.label for clip in clips),
                "subjects": len({clip.subject_id for clip in clips if clip.split == split}),
                "people": len({person for clip in clips if clip.split == split for person in clip.people}),
            }
            for split in SPLITS
        },
        "subjects": len(classes),
        "subjects_of_both_classes": sum(len(labels) == 2 for labels in classes.values()),
        "unrelated_groups": len(groups),
        "largest_group_clips": max(map(len, groups), default=0),
    }


def _leak(leak: Leak) -> dict[str, Any]:
    clips = {split: len(found) for split, found in leak.clips.items()}
    return {"person": leak.person, "clips": clips, "donor_only": leak.donor_only}


def _between(leaks: Sequence[Leak]) -> list[dict[str, Any]]:
    """Per pair of splits that share somebody: {splits, people, donors, clips}."""
    return [{"splits": list(pair), **found} for pair, found in leaks_between(leaks).items()]


def duplicates(clips: Sequence[Clip], quarantined: Sequence[Quarantined]) -> list[dict[str, Any]]:
    """Files of the same content: {clip_id, kept (path, null where the labels contradict each other), dropped}."""
    kept = {clip.clip_id: clip.path for clip in clips}
    dropped: dict[str, list[str]] = {}
    for row in quarantined:
        if row.clip_id:
            dropped.setdefault(row.clip_id, []).append(row.path)
    return [{"clip_id": i, "kept": kept.get(i), "dropped": sorted(paths)} for i, paths in sorted(dropped.items())]


def unusable(facts: Mapping[str, ClipFacts], quarantined: Sequence[Quarantined]) -> dict[str, Any]:
    """How many entries are no clips, how many clips or their sound cannot be used, and why (copies apart)."""
    return {
        "entries": dict(Counter(row.reason for row in quarantined if not row.clip_id).most_common()),
        "clips": dict(Counter(fact.reason for fact in facts.values() if fact.reason).most_common()),
        "sound": dict(Counter(fact.no_audio for fact in facts.values() if fact.no_audio).most_common()),
    }


def segments(clips: Sequence[Clip], facts: Mapping[str, ClipFacts]) -> dict[str, Any]:
    """Clips whose fake seconds are known, the share of those seconds, and how many reach beyond the clip's end."""
    found: dict[str, Any] = {}
    for side in ("video", "audio"):
        known = [(getattr(clip, f"{side}_segments"), facts[clip.clip_id].duration_s) for clip in clips]
        timed = [(each, length) for each, length in known if each and length]
        fake_s = sum(end - start for each, _ in timed for start, end in each)
        found[side] = {
            "clips": sum(bool(each) for each, _ in known),
            "fake_share": fake_s / sum(length for _, length in timed) if timed else None,
            "beyond_end": sum(each[-1][1] > length + 0.1 for each, length in timed),
        }
    return found


def seconds(clips: Sequence[Clip], facts: Mapping[str, ClipFacts], params: WindowParams) -> dict[str, Any]:
    """Per class, of clips that can be decoded: their seconds, those that windows take, and how many clips have more
    windows than `max_per_clip`. What the faces stage leaves out is not known here.
    """
    found: dict[str, Any] = {name: {"clips": 0, "seconds": 0.0, "used": 0.0, "clips_cut": 0} for name in CLASSES}
    for clip in clips:
        known = facts[clip.clip_id]
        if known.duration_s and not known.reason:
            used, covered = (
                _windows_s(known, params.model_copy(update=more)) for more in ({}, {"max_per_clip": 10**6})
            )
            of_class = found[CLASSES[clip.label]]
            of_class["clips"] += 1
            of_class["seconds"] += known.duration_s
            of_class["used"] += used
            of_class["clips_cut"] += used < covered
    return found


def _windows_s(known: ClipFacts, params: WindowParams) -> float:
    """The seconds of a clip that are in its windows; 0 where it is left out."""
    heard = known.leading_silence_s is not None
    if not heard and params.missing_modality == "quarantine":
        return 0.0
    both_s = min(float(known.duration_s or 0), known.sound_s if heard and known.sound_s else float("inf"))
    silence_s = known.leading_silence_s or 0.0
    try:
        return plan_windows("", duration_s=both_s, leading_silence_s=silence_s, params=params).covered_s
    except MediaError:
        return 0.0


def describe(table: pd.DataFrame, name: str, side: str) -> dict[str, Any]:
    """One class's values of a property: quantiles of a number, the most frequent of a name."""
    values = table.loc[table["label"] == CLASSES.index(side), name].dropna()
    if name in NAMES:
        top = values.value_counts()
        shown = {str(value): int(number) for value, number in top.head(_MOST_VALUES).items()}
        return {"known": len(values), "values": shown, "different": len(top)}
    quantiles = {"min": 0.0, "p5": 0.05, "median": 0.5, "p95": 0.95, "max": 1.0}
    return {"known": len(values)} | {
        key: float(values.quantile(q)) if len(values) else None for key, q in quantiles.items()
    }


def shortcuts(table: pd.DataFrame) -> list[dict[str, Any]]:
    """How well every property alone tells the labels, the worst first: {property, label: {auc, ...}, suspicious}.

    Of a name, the value that tells most by being there or not.
    """
    found = []
    for name in (*NUMBERS, *NAMES):
        entry: dict[str, Any] = {"property": name} | {label: _tell(table, name, label) for label in LABELS}
        entry["suspicious"] = any(
            (entry[label]["auc"] or 0) > max(LOUD_AUC, entry[label]["chance"] or 0) for label in LABELS
        )
        found.append(entry)
    return sorted(found, key=lambda entry: -max(entry[label]["auc"] or 0 for label in LABELS))


def _tell(table: pd.DataFrame, name: str, label: str) -> dict[str, Any]:
    among = table[table["has_audio"] == 1] if name in OF_SOUND else table
    labelled = among[among[label].notna()].assign(label=lambda rows: rows[label].astype(int))
    chance = {"chance": chance_auc(labelled)}
    if name in NUMBERS:
        return shortcut_auc(labelled, name) | chance
    told: list[dict[str, Any]] = []
    for value in labelled[name].value_counts().head(_MOST_VALUES).index:
        is_it = (labelled[name] == value).astype(float).where(labelled[name].notna())
        each = shortcut_auc(labelled.assign(is_it=is_it), "is_it")
        told.append(each if each["auc"] is None else each | {"value": str(value)})
    unknown = {"auc": None, "known": 0, "clips": len(labelled), "reason": "known for no clip"}
    return max(told, key=lambda entry: entry["auc"] or 0, default=unknown) | chance
