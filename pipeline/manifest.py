"""Stage `manifest`: a data set's files and labels -> one row a clip, split by subject."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cache_schemas.files import file_sha256
from cache_schemas.manifest import (
    SPLITS,
    Clip,
    ManifestError,
    Quarantined,
    category_of,
    write_manifest,
    write_quarantine,
)
from pipeline import media
from pipeline.params import Params, SplitParams
from pipeline.workers import progress_bar
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class LabelledFile:
    """What a layout knows of one file before it is opened. `audio_label` None: the data set has no sound for it."""

    path: str
    dataset: str
    subject_id: str
    video_label: int
    audio_label: int | None
    method: str
    source_id: str = ""
    target_id: str = ""


Layout = Callable[[Path], Iterator[LabelledFile]]


def read_csv_layout(root: Path) -> Iterator[LabelledFile]:
    """The rows of `root/manifest.csv`: path, subject_id, video_label, audio_label and, where known, more.

    Labels are real | fake | none or 0 | 1 | empty. Optional: method, dataset (or source), source_id, target_id.
    """
    path = root / "manifest.csv"
    for number, row in _rows(path, required=("path", "subject_id", "video_label", "audio_label")):
        video = _label(row["video_label"], path, number, "video_label")
        audio = _label(row["audio_label"], path, number, "audio_label")
        if video is None:
            raise ManifestError(f"{path}, line {number}: video_label is empty; give real or fake")
        fake = bool(video or audio)
        yield LabelledFile(
            path=row["path"],
            dataset=row.get("dataset") or row.get("source") or root.resolve().name,
            subject_id=row["subject_id"],
            video_label=video,
            audio_label=audio,
            method=row.get("method") or ("unknown" if fake else "real"),
            source_id=row.get("source_id", ""),
            target_id=row.get("target_id", ""),
        )


_TYPES = {
    "RealVideo-RealAudio": (0, 0),
    "RealVideo-FakeAudio": (0, 1),
    "FakeVideo-RealAudio": (1, 0),
    "FakeVideo-FakeAudio": (1, 1),
}


def read_fakeavceleb_layout(root: Path) -> Iterator[LabelledFile]:
    """The rows of FakeAVCeleb v1.2's meta_data.csv; `root` is the folder that holds it.

    Its last column has no name and holds the parent folder, written with the prefix FakeAVCeleb for
    FakeAVCeleb_v1.2. 22 files stand in two rows; they are one clip, whose method is faceswap-wav2lip.
    """
    path = root / "meta_data.csv"
    files: dict[str, LabelledFile] = {}
    for number, row in _rows(path, required=("source", "target1", "method", "type", "path", "")):
        if row["type"] not in _TYPES:
            raise ManifestError(f"{path}, line {number}: type {row['type']!r} is not one of {', '.join(_TYPES)}")
        video, audio = _TYPES[row["type"]]
        folder = Path(*Path(row[""]).parts[1:])
        file = LabelledFile(
            path=(folder / row["path"]).as_posix(),
            dataset="FakeAVCeleb",
            subject_id=row["source"],
            video_label=video,
            audio_label=audio,
            method=row["method"] if video or audio else "real",
            source_id=row["source"],
            # Only a swapped face brings a second person into the picture; "-" says none.
            target_id=row["target1"].strip("-"),
        )
        if file.path in files:
            file = replace(file, method="faceswap-wav2lip")
        files[file.path] = file
    yield from files.values()


LAYOUTS: dict[str, Layout] = {
    "synth": read_csv_layout,
    "csv": read_csv_layout,
    "fakeavceleb": read_fakeavceleb_layout,
}


def build_manifest(workspace: Workspace, params: Params) -> list[Clip]:
    """The clips written to the manifest; raises ManifestError when too many files cannot be used."""
    root = Path(params.data.root)
    files = list(LAYOUTS[params.data.layout](root))
    if not files:
        raise ManifestError(f"{root}: the {params.data.layout} layout lists no files")
    clips: dict[str, Clip] = {}
    quarantined: list[Quarantined] = []

    with progress_bar("manifest", total=len(files), unit="files") as advance, ThreadPoolExecutor() as pool:
        for file, opened in zip(files, pool.map(lambda file: _open(root, file), files), strict=True):
            if isinstance(opened, str):
                quarantined.append(Quarantined("", file.path, "manifest", opened))
            elif opened.clip_id in clips:
                reason = f"the same content as {clips[opened.clip_id].path}"
                quarantined.append(Quarantined(opened.clip_id, file.path, "manifest", reason))
            else:
                clips[opened.clip_id] = opened
            advance(1)
    write_quarantine(workspace.quarantine("manifest"), quarantined)
    if len(quarantined) > params.max_failed_fraction * len(files):
        raise ManifestError(
            f"{len(quarantined)} of {len(files)} files cannot be used, more than max_failed_fraction "
            f"{params.max_failed_fraction:g}; the reasons are in {workspace.quarantine('manifest')}"
        )
    ordered = sorted(clips.values(), key=lambda clip: clip.path)
    result = assign_splits(ordered, params.split, seed=params.seed)
    write_manifest(workspace.manifest, result)
    return result


def assign_splits(clips: list[Clip], split: SplitParams, *, seed: int) -> list[Clip]:
    """The clips with their split. People who share a clip (source, target, subject) stay together.

    Components of the identity graph are dealt out one by one, largest first and else in an order that the seed
    shuffles, each to the split whose counts per category fall shortest of its share: stratified as far as people allow.
    """
    groups = _identity_components(clips)
    categories = sorted({clip.category for clip in clips})
    column = {category: i for i, category in enumerate(categories)}
    counts = np.zeros((len(groups), len(categories)))
    for g, group in enumerate(groups):
        for clip in group:
            counts[g, column[clip.category]] += 1
    shares = np.array([1 - split.val - split.test, split.val, split.test])
    goal = shares[:, None] * counts.sum(axis=0)
    filled = np.zeros_like(goal)
    shuffled = np.random.default_rng(seed).permutation(len(groups))
    result: dict[str, str] = {}
    if len(groups) < len(SPLITS):
        raise ManifestError(
            f"{len(groups)} unrelated subjects cannot fill {', '.join(SPLITS)}: at least 3 are needed, more is better"
        )
    for dealt, g in enumerate(sorted(shuffled, key=lambda g: -counts[g].sum())):
        empty = [s for s in range(3) if not filled[s].any()]
        open_splits = empty if len(groups) - dealt <= len(empty) else range(3)
        # The cost of a choice: squared relative distance from the goal, over all splits and categories.
        costs = {
            s: np.square((filled + counts[g] * (np.arange(3) == s)[:, None] - goal) / np.maximum(goal, 1)).sum()
            for s in open_splits
        }
        chosen = min(costs, key=lambda s: costs[s])
        filled[chosen] += counts[g]
        result |= {clip.clip_id: SPLITS[chosen] for clip in groups[g]}
    return [replace(clip, split=result[clip.clip_id]) for clip in clips]


def _identity_components(clips: list[Clip]) -> list[list[Clip]]:
    parent: dict[str, str] = {}

    def find(person: str) -> str:
        while parent.setdefault(person, person) != person:
            parent[person] = person = parent[parent[person]]
        return person

    for clip in clips:
        for other in {clip.source_id, clip.target_id} - {""}:
            parent[find(other)] = find(clip.subject_id)
    groups: dict[str, list[Clip]] = {}
    for clip in clips:
        groups.setdefault(find(clip.subject_id), []).append(clip)
    return list(groups.values())


def _open(root: Path, file: LabelledFile) -> Clip | str:
    """The clip, or why its bytes cannot be read. Whether they are media the next stages find out."""
    try:
        path = media.inside(root, file.path)
        media.check_file(path)
        clip_id, size = file_sha256(path)[:16], path.stat().st_size
    except media.MediaError as error:
        return str(error)
    except (OSError, ValueError) as error:
        return f"the file cannot be read ({error})"
    return Clip(
        clip_id=clip_id,
        path=file.path,
        dataset=file.dataset,
        subject_id=file.subject_id,
        source_id=file.source_id,
        target_id=file.target_id,
        video_label=file.video_label,
        audio_label=file.audio_label,
        label=int(bool(file.video_label or file.audio_label)),
        category=category_of(file.video_label, file.audio_label),
        method=file.method,
        split="train",  # until assign_splits has seen all clips
        file_bytes=size,
    )


def _rows(path: Path, *, required: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in required if name not in (reader.fieldnames or [])]
            if missing:
                found = ", ".join(reader.fieldnames or []) or "none"
                raise ManifestError(f"{path}: column {missing[0]!r} is missing; it has {found}")
            for row in reader:
                yield reader.line_num, {key: value or "" for key, value in row.items() if key is not None}
    except FileNotFoundError:
        raise ManifestError(f"{path} does not exist: check data.root and data.layout in params.yaml") from None


def _label(text: str, path: Path, number: int, column: str) -> int | None:
    values = {"real": 0, "0": 0, "fake": 1, "1": 1, "none": None, "": None}
    if text not in values:
        raise ManifestError(f"{path}, line {number}: {column} {text!r} is not real, fake, none, 0, 1 or empty")
    return values[text]
