"""Layout `swan-df`: SWAN-DF beside the real recordings of SWAN (the part from Idiap that it is made of).

No description of the file names comes with the papers. What is read here was established from the file lists of
Idiap's own package for SWAN (bob.db.swan) and, for the fakes, from how published loaders of SWAN-DF read them:

    .../session_01/iPhone/00001/4_00001_m_01_04_p_2.mp4
        real; site 4 (Idiap), person 00001, m | f, session 01, recording 04, p = iPhone | t = iPad, 2 = talking
    .../256x256/00001/4_00001_m_01_04_p_2-model_256d-train_masknocolor-blending_m2s1-to-00006.mp4
        that recording with the face of person 00006 of the same site; network, its training, blending

Only talking recordings (2) are listed: 1, 3 and 4 (face, eye and finger for recognition) have no fake counterpart.
Converted voices (audios/wav) are sound files without a picture and are not clips.

Not established: whether the sound of the face swaps is the recording's or a converted voice. Their names speak of
a face only, so they count as fake picture with real sound; who knows better says so with the `csv` layout.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from cache_schemas.manifest import ManifestError
from pipeline.datasets.base import Entry, LabelledFile, Layout, Refused, video_files

_TALKING = "2"
_REAL = r"(?P<site>\d)_(?P<person>\d{5})_[mf]_\d{2}_\d{2}_[pt]_(?P<kind>\d)"
_NAME = re.compile(
    rf"{_REAL}(?:-model_(?P<model>[^-]+)-train_(?P<train>[^-]+)-blending_(?P<blending>[^-]+)-to-(?P<face>\d{{5}}))?\.mp4"
)


def read(root: Path) -> Iterator[Entry]:
    """Every talking recording and face swap under `root`, wherever its folder; other names are refused."""
    if not root.is_dir():
        raise ManifestError(f"{root} is not a folder: check data.root in params.yaml")
    for path in video_files(root):
        name = PurePosixPath(path).name
        match = _NAME.fullmatch(name)
        if match is None:
            yield Refused(
                path,
                "the name is not SWAN's SITE_PERSON_m|f_SESSION_RECORDING_p|t_KIND.mp4, nor that followed by "
                "-model_M-train_T-blending_B-to-PERSON.mp4",
            )
        elif match["kind"] == _TALKING:
            yield _file(path, match)


def _file(path: str, match: re.Match[str]) -> LabelledFile:
    person = f"{match['site']}_{match['person']}"
    fake = match["face"] is not None
    return LabelledFile(
        path=path,
        dataset="SWAN-DF",
        subject_id=person,
        video_label=int(fake),
        audio_label=0,
        method=f"{match['model']}-{match['train']}-{match['blending']}" if fake else "real",
        source_id=f"{match['site']}_{match['face']}" if fake else "",
        target_id=person if fake else "",
    )


LAYOUT = Layout(
    read,
    "a person is a SWAN client (SITE_NUMBER); the recorded one and the one whose face was put in both count; no "
    "official splits. The sound of face swaps counts as real, which the file names do not settle",
)
