"""Stage `manifest`: a data set's files and labels -> one row a clip, each with its split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

from cache_schemas.manifest import (
    Clip,
    Leak,
    ManifestError,
    Quarantined,
    category_of,
    commonest,
    find_leaks,
    write_manifest,
    write_quarantine,
)
from cache_schemas.paths import path_text
from pipeline import media
from pipeline.compute.progress import console, progress_bar
from pipeline.datasets import LAYOUTS, Entry, LabelledFile, Refused
from pipeline.manifest.hashes import Hashes
from pipeline.manifest.splits import assign_splits
from pipeline.params import Params
from pipeline.workspace import Workspace

_AT_ONCE = 4096  # files handed to the reading threads in one go: bounds what waits


def build_manifest(workspace: Workspace, params: Params) -> list[Clip]:
    """The clips written to the manifest; raises ManifestError when too many files cannot be used."""
    root = Path(params.data.root)
    entries = list(LAYOUTS[params.data.layout].read(root))
    if not entries:
        raise ManifestError(f"{root}: the {params.data.layout} layout lists no files")
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
    result = assign_splits(sorted(unique, key=lambda clip: clip.path), params.split, seed=params.seed)
    write_manifest(workspace.manifest, result)
    if leaks := find_leaks(result):
        console.print(f"[bold red]LEAK:[/] {describe_leaks(leaks)}", soft_wrap=True, highlight=False)
    return result


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
    return f"{'; '.join(parts)}: {', '.join(shown)}{more}. What is learnt of a face or a voice can pass for skill."


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
    try:
        digest, file_bytes = hashes.of(media.inside(root, entry.path))
        return _clip(entry, text, digest[:16], file_bytes)
    except media.MediaError as error:
        reason = str(error)
    except (OSError, ValueError) as error:
        reason = f"the file cannot be read ({path_text(str(error))})"
    return Quarantined("", text, "manifest", reason)


def _clip(file: LabelledFile, path: str, clip_id: str, file_bytes: int) -> Clip:
    fake = bool(file.video_label or file.audio_label)
    given = vars(file) | {"path": path, "method": file.method or ("unknown" if fake else "real")}
    return Clip(
        **given,
        clip_id=clip_id,
        label=int(fake),
        category=category_of(file.video_label, file.audio_label),
        split="train",  # until assign_splits has seen all clips
        file_bytes=file_bytes,
    )
