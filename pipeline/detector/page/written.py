"""`bmnas predict --html`: a page a file in a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from cache_schemas.files import write_text
from pipeline.detector.explain import Explained
from pipeline.detector.page.document import page
from pipeline.detector.page.look import look
from pipeline.detector.page.names import page_names
from pipeline.detector.page.shown import About
from pipeline.detector.predict import Show


def pages(folder: Path, videos: Sequence[Path], about: About) -> Callable[[Path], Show]:
    """What `predict` shows files by: their pages, in `folder`, which is made.

    A page is named after its file, see `page_names`, and takes the place of one of that name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    to = {video: folder.absolute() / name for video, name in page_names(videos).items()}
    return lambda video: partial(_write, to[video], about)


def _write(to: Path, about: About, video: Path, found: Explained) -> None:
    write_text(to, page(found.prediction, look(video, found), about))
