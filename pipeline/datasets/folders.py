"""Layout `folders`: real clips in `real/`, fake ones in `fake/`, if possible in one folder a person."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from cache_schemas.listing import media_files
from cache_schemas.manifest import ManifestError
from pipeline.datasets.base import LabelledFile, Layout

_LABELS = {"real": 0, "fake": 1}


def read(root: Path) -> Iterator[LabelledFile]:
    """The video files (by suffix) below `root/real` and `root/fake`: `real/PERSON/.../clip.mp4` or `real/clip.mp4`.

    Nothing says what is fake about a fake: it counts as fake picture with real sound. `csv` can tell more.
    """
    missing = [name for name in _LABELS if not (root / name).is_dir()]
    if missing:
        raise ManifestError(f"{root / missing[0]} is not a folder: this layout needs real/ and fake/ in data.root")
    for name, label in _LABELS.items():
        for path in media_files(root, name):
            parts = PurePosixPath(path).parts[1:]
            yield LabelledFile(
                path=path,
                dataset=root.resolve().name,
                subject_id=parts[0] if len(parts) > 1 else path,
                video_label=label,
                audio_label=0,
            )


LAYOUT = Layout(
    read,
    "a person is the folder below real/ or fake/; a clip that lies in real/ or fake/ itself counts as a person of its "
    "own, so that nothing can be said about leaks",
    "every fake counts as fake picture with real sound (FVRA): the folders do not say which of the two is fake",
)
