"""The manifest: one row a clip, CSV. And the quarantine lists that go with each stage."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from itertools import combinations
from pathlib import Path

import pandas as pd

from cache_schemas.files import digest
from cache_schemas.paths import path_name
from cache_schemas.segments import MIN_FAKE_S, Segments, overlap_s, parse_segments, segments_text
from cache_schemas.tables import read_table, write_table

SPLITS = ("train", "val", "test")
SPLIT_KINDS = ("subject", "people", "official")


class ManifestError(ValueError):
    """The manifest cannot be used; the message names the file, the row or subject, and the way out."""


def category_of(video_label: int, audio_label: int | None) -> str:
    """RVRA, FVRA, RVFA or FVFA; RV- or FV- where there is no sound."""
    video = "FV" if video_label else "RV"
    return f"{video}-" if audio_label is None else video + ("FA" if audio_label else "RA")


def clip_id_of(sha256: str, audio_sha256: str = "") -> str:
    """Names a clip by the SHA-256 of its file and, where its sound lies in another file, of that: the same picture
    with another voice is another clip.
    """
    return digest(sha256, audio_sha256) if audio_sha256 else sha256[:16]


@dataclass(frozen=True)
class Clip:
    """One media file, or two: the picture, and a file with its sound.

    Labels: 0 real, 1 fake; `audio_label` is None where there is no sound.
    """

    clip_id: str
    """16 hex digits, see `clip_id_of`: the same bytes are the same clip, wherever they lie."""
    path: str
    """Relative to the data root, with forward slashes, as `cache_schemas.paths.path_text` writes it."""
    dataset: str
    subject_id: str
    source_id: str
    """Whose face or voice was put in; several are separated by a semicolon; empty where unknown or none."""
    target_id: str
    """Who was in the original recording; the same; empty where unknown."""
    video_label: int
    audio_label: int | None
    label: int
    category: str
    method: str
    split: str
    file_bytes: int
    """Of all its files."""
    official_split: str = ""
    """What the data set's authors put the clip into: train, val or test; empty where they do not say."""
    split_kind: str = "subject"
    """How `split` was made: by subject or people (no person is ever in two splits) or official (people may be)."""
    video_segments: Segments = ()
    """The fake seconds of the picture. None, with a fake picture: it is fake throughout."""
    audio_segments: Segments = ()
    """The same for the sound."""
    audio_path: str = ""
    """The file with the sound, written as `path` is: its first sample is heard at the first picture. Empty: the
    sound is the clip's own track.
    """
    group: str = ""
    """The demographic group of the subject, where the data set says; no part of what is learnt."""

    @property
    def file_name(self) -> str:
        """`path` as the file system knows it."""
        return path_name(self.path)

    @property
    def audio_file_name(self) -> str:
        """`audio_path` as the file system knows it."""
        return path_name(self.audio_path)

    @property
    def people(self) -> frozenset[str]:
        """Everybody whose face or voice is in the clip: subject, sources and targets."""
        return frozenset(people_of(self.subject_id, self.source_id, self.target_id))

    def labels_between(self, start_s: float, end_s: float) -> tuple[int, int | None]:
        """(video label, audio label) of that piece of the clip: fake where it holds more than MIN_FAKE_S of a fake
        segment, or where the clip is fake and its segments are not known; audio None without a sound track.
        """
        video = _label_between(self.video_label, self.video_segments, start_s, end_s)
        if self.audio_label is None:
            return video, None
        return video, _label_between(self.audio_label, self.audio_segments, start_s, end_s)


def _label_between(label: int, segments: Segments, start_s: float, end_s: float) -> int:
    if not (label and segments):
        return label
    return int(round(overlap_s(segments, start_s, end_s), 6) > MIN_FAKE_S)  # starts are rounded to 1 us, too


def people_of(*ids: str) -> list[str]:
    """The people that the columns subject_id, source_id and target_id name, each once, in order."""
    return list(dict.fromkeys(part.strip() for text in ids for part in text.split(";") if part.strip()))


COLUMNS = tuple(field.name for field in fields(Clip))
_NEEDED = tuple(field.name for field in fields(Clip) if field.default is MISSING)
_PARSERS: Mapping[str, Callable[[str], object]] = {
    **dict.fromkeys(("video_label", "label", "file_bytes"), int),
    "audio_label": lambda text: int(text) if text else None,
    **dict.fromkeys(("video_segments", "audio_segments"), parse_segments),
}
"""Of the columns that are no text."""


def write_manifest(path: Path, clips: list[Clip]) -> None:
    """Replaces `path` by the manifest; raises ManifestError when a person is in two splits that are not official."""
    check_splits(clips)
    write_table(path, _frame(clips))


def _frame(clips: Iterable[Clip]) -> pd.DataFrame:
    frame = pd.DataFrame([_row(clip) for clip in clips], columns=list(COLUMNS))
    return frame.astype({"audio_label": "Int64"})


def _row(clip: Clip) -> dict[str, object]:
    segments = {name: segments_text(getattr(clip, name)) for name in ("video_segments", "audio_segments")}
    return {name: getattr(clip, name) for name in COLUMNS} | segments


def read_manifest(path: Path) -> list[Clip]:
    """The clips in `path`; raises ManifestError when a column is missing, a value is wrong, or a person is in two
    splits that are not official. Columns that older manifests lack may be missing.
    """
    try:
        frame = read_table(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise ManifestError(f"{path} does not exist: run `bmnas manifest` first") from None
    missing = [name for name in _NEEDED if name not in frame.columns]
    if missing:
        raise ManifestError(f"{path}: column {missing[0]!r} is missing: run `bmnas manifest` again")
    clips = [_clip(path, number, row) for number, row in enumerate(frame.to_dict("records"), start=1)]
    check_splits(clips)
    return clips


def _clip(path: Path, number: int, row: Mapping[Hashable, str]) -> Clip:
    try:
        return Clip(**{name: _PARSERS.get(name, str)(row[name]) for name in COLUMNS if name in row})  # type: ignore[arg-type]
    except ValueError as error:
        raise ManifestError(f"{path}, clip {number} ({row['path']}): {error}; run `bmnas manifest` again") from None


@dataclass(frozen=True)
class Unused:
    """A clip of the data set that is in no split, though nothing is wrong with it, and why."""

    clip: Clip
    """Its `split` is empty."""
    reason: str


def write_unused(path: Path, rows: Sequence[Unused]) -> None:
    """Replaces `path` by the list: the manifest's columns and the reason."""
    write_table(path, _frame(row.clip for row in rows).assign(reason=[row.reason for row in rows]))


def read_unused(path: Path) -> list[Unused]:
    """The list in `path`; empty when there is no such file."""
    if not path.exists():
        return []
    rows = read_table(path, dtype=str, keep_default_na=False).to_dict("records")
    return [Unused(_clip(path, number, row), row["reason"]) for number, row in enumerate(rows, start=1)]


@dataclass(frozen=True)
class Leak:
    """A person who stands in more than one split: {split: their clips there}, in the order of SPLITS."""

    person: str
    clips: Mapping[str, tuple[Clip, ...]]

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits, in order."""
        return tuple(self.clips)

    @property
    def donor_only(self) -> bool:
        """Whether they are the subject of clips in one split at most: in the others, source or target."""
        return sum(any(clip.subject_id == self.person for clip in found) for found in self.clips.values()) < 2


def find_leaks(clips: Iterable[Clip], split_of: Callable[[Clip], str] = lambda clip: clip.split) -> list[Leak]:
    """Everybody (subject, source or target) who is in two splits or more, by name; clips without one do not count."""
    where: dict[str, dict[str, list[Clip]]] = {}
    for clip in clips:
        if split := split_of(clip):
            for person in clip.people:
                where.setdefault(person, {}).setdefault(split, []).append(clip)
    return [
        Leak(person, {split: tuple(found[split]) for split in SPLITS if split in found})
        for person, found in sorted(where.items())
        if len(found) > 1
    ]


def leaks_between(leaks: Sequence[Leak]) -> dict[tuple[str, str], dict[str, int]]:
    """{(split, split): {people, donors, clips}}: how many stand in both, how many of them as the subject in one of the
    two at most, and in how many clips. Pairs that share nobody are left out.
    """
    found = {}
    for pair in combinations(SPLITS, 2):
        of_pair = [leak for leak in leaks if set(pair) <= set(leak.splits)]
        both = [Leak(leak.person, {split: leak.clips[split] for split in pair}) for leak in of_pair]
        if both:
            clips = {clip.clip_id for leak in both for of_split in leak.clips.values() for clip in of_split}
            donors = sum(leak.donor_only for leak in both)
            found[pair] = {"people": len(both), "donors": donors, "clips": len(clips)}
    return found


def check_splits(clips: list[Clip]) -> None:
    """Raises ManifestError when a split is unknown, or somebody is in two splits that are not official."""
    for clip in clips:
        for name, allowed in (("split", SPLITS), ("split_kind", SPLIT_KINDS), ("official_split", ("", *SPLITS))):
            if getattr(clip, name) not in allowed:
                choices = ", ".join(filter(None, allowed))
                raise ManifestError(f"clip {clip.path}: {name} {getattr(clip, name)!r} is not one of {choices}")
    leaks = find_leaks(clip for clip in clips if clip.split_kind != "official")
    if leaks:
        (first, ones), (second, others) = list(leaks[0].clips.items())[:2]
        raise ManifestError(
            f"subject {leaks[0].person!r} is in two splits: {ones[0].path} in {first}, {others[0].path} in {second}; "
            "put all clips of a person into one split"
        )


@dataclass(frozen=True)
class Quarantined:
    """A clip that a stage could not use, and why in words that a person understands."""

    clip_id: str
    path: str
    stage: str
    reason: str


def write_quarantine(path: Path, rows: list[Quarantined]) -> None:
    """Replaces `path` by the list, sorted by clip."""
    ordered = sorted(rows, key=lambda row: (row.path, row.clip_id))
    frame = pd.DataFrame(ordered, columns=[field.name for field in fields(Quarantined)])
    write_table(path, frame)


def commonest(rows: Iterable[Quarantined]) -> str:
    """The reason that most rows have, in words; numbers in it make no other reason."""
    reasons = [row.reason for row in rows]
    kinds = [re.sub(r"\d+(\.\d+)?", "0", reason) for reason in reasons]
    ((kind, count),) = Counter(kinds).most_common(1)
    return f"most often, {count} times: {reasons[kinds.index(kind)]}"


def read_quarantine(path: Path) -> list[Quarantined]:
    """The list in `path`; empty when there is no such file."""
    if not path.exists():
        return []
    frame = read_table(path, dtype=str, keep_default_na=False)
    return [Quarantined(*row) for row in frame[["clip_id", "path", "stage", "reason"]].itertuples(index=False)]
