"""Stage `manifest`: a data set's files and labels -> one row a clip, each with its split."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

from rich.markup import escape

from cache_schemas.listing import media_files
from cache_schemas.manifest import (
    Clip,
    Leak,
    ManifestError,
    Quarantined,
    category_of,
    clip_id_of,
    commonest,
    find_leaks,
    write_manifest,
    write_quarantine,
    write_unused,
)
from cache_schemas.paths import path_text, plain_text
from pipeline import media
from pipeline.compute.progress import console, progress_bar
from pipeline.datasets import LAYOUTS, Entry, LabelledFile, Refused
from pipeline.manifest.hashes import Hashes
from pipeline.manifest.splits import assign_splits
from pipeline.params import Params
from pipeline.workspace import Workspace

_AT_ONCE = 4096  # files handed to the reading threads in one go: bounds what waits


NOT_UTF8 = "its name holds bytes that are not UTF-8: if the table is not, save it as UTF-8"


def build_manifest(workspace: Workspace, params: Params) -> list[Clip]:
    """The clips written to the manifest; raises ManifestError when too many files cannot be used."""
    root = Path(params.data.root)
    entries = list(LAYOUTS[params.data.layout].read(root))
    if not entries:
        raise ManifestError(f"{root}: the {params.data.layout} layout lists no files")
    _stop_early(root, entries, params)
    clips: list[Clip] = []
    quarantined: list[Quarantined] = []
    with (
        Hashes(workspace.hashes) as hashes,
        progress_bar("manifest", total=len(entries), unit="files") as advance,
    ):
        for opened in _open_all(root, entries, hashes):
            if isinstance(opened, Clip):
                clips.append(opened)
            else:
                quarantined.append(opened)
            advance(1)
    unique, copies = without_copies(clips)
    quarantined += copies
    write_quarantine(workspace.quarantine("manifest"), quarantined)
    if len(quarantined) > params.max_failed_fraction * len(entries):
        raise ManifestError(
            f"{len(quarantined)} of {len(entries)} files cannot be used, more than max_failed_fraction "
            f"{params.max_failed_fraction:g}; {commonest(quarantined)}; all reasons are in "
            f"{workspace.quarantine('manifest')}"
        )
    result, unused = assign_splits(sorted(unique, key=lambda clip: clip.path), params.split, seed=params.seed)
    write_manifest(workspace.manifest, result)
    write_unused(workspace.unused, unused)
    if leaks := find_leaks(result):
        console.print(f"[bold red]LEAK:[/] {escape(describe_leaks(leaks))}", soft_wrap=True, highlight=False)
    return result


def _stop_early(root: Path, entries: Sequence[Entry], params: Params) -> None:
    """Raises ManifestError for what the tables alone tell: reading the files takes hours where there are many."""
    most = params.max_failed_fraction * len(entries)
    files = [entry for entry in entries if isinstance(entry, LabelledFile)]
    refused = [Quarantined("", entry.path, "manifest", entry.reason) for entry in entries if isinstance(entry, Refused)]
    if len(refused) > most:
        raise ManifestError(
            f"{root}: {len(refused)} of {len(entries)} entries cannot be used, more than max_failed_fraction "
            f"{params.max_failed_fraction:g}; {commonest(refused)}"
        )
    with ThreadPoolExecutor() as pool:
        there = list(pool.map(partial(_are_there, root), files))
    missing = [file for file, found in zip(files, there, strict=True) if not found]
    if len(missing) > most:
        left_out = len(files_without_entry(root, params.data.layout, [entry.path for entry in entries]))
        why = (
            f"{left_out} files lie there that no entry names: the table is of another version of the data set than the "
            "files, or of another folder"
            if left_out
            else "check data.root, or set max_failed_fraction higher to go on with a part of the data set"
        )
        raise ManifestError(
            f"{root}: {len(missing)} of {len(entries)} files that the data set names are not there, the first is "
            f"{path_text(missing[0].path)}; {why}"
        )
    assign_splits([_clip(file, str(i), 0) for i, file in enumerate(files)], params.split, seed=params.seed)


def _are_there(root: Path, file: LabelledFile) -> bool:
    return all(os.path.lexists(root / name) for name in (file.path, file.audio_path))  # no name: the root itself


def files_without_entry(root: Path, layout: str, named: Iterable[str]) -> list[str]:
    """The layout's kind of files under `root` whose path no entry names: left out without anybody having said so.

    named: paths as the file system knows them.
    """
    base = root.absolute()  # a table may name whole paths
    known = {os.path.normpath(base / name) for name in named}
    suffixes = LAYOUTS[layout].suffixes
    found = (path for path in media_files(root, suffixes=suffixes) if Path(path).suffix.lower() in suffixes)
    return [path for path in found if os.path.normpath(base / path) not in known]


def without_copies(clips: Sequence[Clip]) -> tuple[list[Clip], list[Quarantined]]:
    """(one clip for every content, the others with the reason). Where copies are labelled differently none is kept:
    nobody knows which is right.
    """
    groups: dict[str, list[Clip]] = {}
    for clip in clips:
        groups.setdefault(clip.clip_id, []).append(clip)
    kept, dropped = [], []
    for first, *others in groups.values():
        different = [clip for clip in others if _labels(clip) != _labels(first)]
        if different:
            for clip in (first, *others):
                other = first if clip is not first else different[0]
                reason = f"the same content as {other.path}, and the labels contradict each other"
                dropped.append(Quarantined(clip.clip_id, clip.path, "manifest", reason))
        else:
            kept.append(first)
            reason = f"the same content as {first.path}"
            dropped += [Quarantined(clip.clip_id, clip.path, "manifest", reason) for clip in others]
    return kept, dropped


def describe_leaks(leaks: Sequence[Leak], *, most: int = 10) -> str:
    """Who stands in which splits with how many clips, in one sentence a pair of splits."""
    together = Counter(" and ".join(leak.splits) for leak in leaks)
    parts = [f"{number} people stand in {splits}" for splits, number in together.most_common()]
    shown = [
        f"{leak.person} ({', '.join(f'{split}: {len(found)} clips' for split, found in leak.clips.items())})"
        for leak in leaks[:most]
    ]
    more = f" and {len(leaks) - most} more" if len(leaks) > most else ""
    donors = sum(leak.donor_only for leak in leaks)
    only = f" {donors} of them are the subject in one split at most, elsewhere source or target." if donors else ""
    return (
        f"{'; '.join(parts)}: {', '.join(shown)}{more}.{only} What is learnt of a face or a voice can pass for skill."
    )


def _labels(clip: Clip) -> tuple[object, ...]:
    return clip.video_label, clip.audio_label, clip.video_segments, clip.audio_segments


def _open_all(root: Path, entries: Sequence[Entry], hashes: Hashes) -> Iterator[Clip | Quarantined]:
    waiting = iter(entries)
    with ThreadPoolExecutor() as pool:
        while batch := list(islice(waiting, _AT_ONCE)):
            yield from pool.map(partial(_open, root, hashes), batch)


def _open(root: Path, hashes: Hashes, entry: Entry) -> Clip | Quarantined:
    """The clip, or why it cannot be one. Whether its bytes are media the next stages find out."""
    text = path_text(entry.path)
    if isinstance(entry, Refused):
        return Quarantined("", text, "manifest", entry.reason)
    contents, file_bytes = [], 0
    for name in filter(None, (entry.path, entry.audio_path)):
        of = "" if name == entry.path else f"its sound {path_text(name)}: "
        try:
            digest, size = hashes.of(media.inside(root, name))
            contents.append(digest)
            file_bytes += size
        except media.MediaError as error:
            hint = "" if os.path.lexists(root / name) or name.isprintable() else f"; {NOT_UTF8}"
            return Quarantined("", text, "manifest", f"{of}{error}{hint}")
        except (OSError, ValueError) as error:
            return Quarantined("", text, "manifest", f"{of}the file cannot be read ({path_text(str(error))})")
    return _clip(entry, clip_id_of(*contents), file_bytes)


def _clip(file: LabelledFile, clip_id: str, file_bytes: int) -> Clip:
    fake = bool(file.video_label or file.audio_label)
    given = vars(file) | {"method": file.method or ("unknown" if fake else "real")}
    texts = {name: plain_text(value) for name, value in given.items() if isinstance(value, str)}
    paths = {"path": path_text(file.path), "audio_path": path_text(file.audio_path)}
    return Clip(
        **given | texts | paths,
        clip_id=clip_id,
        label=int(fake),
        category=category_of(file.video_label, file.audio_label),
        split="train",  # until assign_splits has seen all clips
        file_bytes=file_bytes,
    )
