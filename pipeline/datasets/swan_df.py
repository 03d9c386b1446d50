"""Layout `swan-df`: SWAN-DF beside the real recordings of SWAN (the part from Idiap that it is made of).

No description of the file names comes with the papers. What is read here was established from the file lists of
Idiap's own package for SWAN (bob.db.swan) and, for the fakes, from how published loaders of SWAN-DF read them:

    .../session_01/iPhone/00001/4_00001_m_01_04_p_2.mp4
        real; site 4 (Idiap), person 00001, m | f, session 01, recording 04, p = iPhone | t = iPad, 2 = talking
    .../256x256/00001/4_00001_m_01_04_p_2-model_256d-train_masknocolor-blending_m2s1-to-00006.mp4
        that recording with the face of person 00006 of the same site; network, its training, blending
    .../audios/wav/00001/4_00001_m_01_04_p_2-freevc-pretrained-tuned70k-to-00006.wav
        the sound of that recording in the voice of person 00006; what stands between names the conversion

Only talking recordings (2) are listed: 1, 3 and 4 (face, eye and finger for recognition) have no fake counterpart.

Voices pair with pictures by a key, as in a published loader of the set: the recording and the person who is put in. The
recording with such a voice is a real picture with fake sound; a face swap of the same key with it is fake in both. The
loader takes every pair of a key, hundreds where there are dozens of each; here each face swap and each voice of a key
is used once, the rarer kind again, and which goes with which depends on the key, so that no blending always comes with
the same conversion.

Not established: whether the own sound of the face swaps is the recording's or a converted voice. Their names speak of
a face only, so on their own they count as fake picture with real sound; who knows better says so with the `csv` layout.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from cache_schemas.files import digest
from cache_schemas.listing import media_files
from cache_schemas.manifest import ManifestError
from pipeline.datasets.base import Entry, LabelledFile, Layout, Refused

_VOICES = frozenset({".wav"})
_TALKING = "2"
_GROUPS = {"m": "men", "f": "women"}
_REAL = r"(?P<recording>(?P<site>\d)_(?P<person>\d{5})_(?P<sex>[mf])_\d{2}_\d{2}_[pt]_(?P<kind>\d))"
_NAME = re.compile(
    rf"{_REAL}(?:-model_(?P<model>[^-]+)-train_(?P<train>[^-]+)-blending_(?P<blending>[^-]+)-to-(?P<other>\d{{5}}))?\.mp4"
)
_VOICE = re.compile(rf"{_REAL}-(?P<conversion>.+)-to-(?P<other>\d{{5}})\.wav")


class _Key(NamedTuple):
    """What a voice and a picture have in common."""

    recording: str
    other: str
    """Whose voice and face were put in."""


def read(root: Path) -> Iterator[Entry]:
    """Every talking recording and face swap under `root`, wherever its folder, alone and with converted voices; other
    names of videos are refused.
    """
    if not root.is_dir():
        raise ManifestError(f"{root} is not a folder: check data.root in params.yaml")
    recordings: dict[str, LabelledFile] = {}
    swaps: dict[_Key, list[LabelledFile]] = defaultdict(list)
    for path in media_files(root):
        match = _NAME.fullmatch(PurePosixPath(path).name)
        if match is None:
            yield Refused(
                path,
                "the name is not SWAN's SITE_PERSON_m|f_SESSION_RECORDING_p|t_KIND.mp4, nor that followed by "
                "-model_M-train_T-blending_B-to-PERSON.mp4",
            )
        elif match["kind"] == _TALKING:
            file = _file(path, match)
            yield file
            if file.video_label:
                swaps[_Key(match["recording"], match["other"])].append(file)
            else:
                recordings[match["recording"]] = file
    for key, voices in _voices(root).items():
        if key.recording in recordings:
            yield from (_with_voice(recordings[key.recording], voice) for voice in voices)
        yield from (_with_voice(swap, voice) for swap, voice in _pairs(key, swaps[key], voices))


def _file(path: str, match: re.Match[str]) -> LabelledFile:
    person = f"{match['site']}_{match['person']}"
    fake = match["other"] is not None
    return LabelledFile(
        path=path,
        dataset="SWAN-DF",
        subject_id=person,
        video_label=int(fake),
        audio_label=0,
        method=f"{match['model']}-{match['train']}-{match['blending']}" if fake else "real",
        source_id=f"{match['site']}_{match['other']}" if fake else "",
        target_id=person if fake else "",
        group=_GROUPS[match["sex"]],
    )


class _Voice(NamedTuple):
    path: str
    match: re.Match[str]


def _voices(root: Path) -> dict[_Key, list[_Voice]]:
    """The converted voices of talking recordings, those of a key in the order of their names."""
    found: dict[_Key, list[_Voice]] = defaultdict(list)
    for path in media_files(root, suffixes=_VOICES):
        match = _VOICE.fullmatch(PurePosixPath(path).name)
        if match is not None and match["kind"] == _TALKING:
            found[_Key(match["recording"], match["other"])].append(_Voice(path, match))
    return found


def _pairs(key: _Key, swaps: list[LabelledFile], voices: list[_Voice]) -> Iterator[tuple[LabelledFile, _Voice]]:
    """Each face swap and each voice once, the rarer kind again; who goes with whom depends on the key."""
    shift = int(digest(*key), 16)
    for i in range(max(len(swaps), len(voices)) if swaps else 0):
        yield swaps[i % len(swaps)], voices[(i + shift) % len(voices)]


def _with_voice(file: LabelledFile, voice: _Voice) -> LabelledFile:
    conversion = voice.match["conversion"]
    return replace(
        file,
        audio_path=voice.path,
        audio_label=1,
        method=f"{file.method}+{conversion}" if file.video_label else conversion,
        source_id=f"{voice.match['site']}_{voice.match['other']}",
        target_id=file.subject_id,
    )


LAYOUT = Layout(
    read,
    "a person is a SWAN client (SITE_NUMBER); the recorded one and the one whose face or voice was put in both count; "
    "no official splits",
    "the own sound of face swaps counts as real, which the file names do not settle",
    suffixes=_VOICES,
)
