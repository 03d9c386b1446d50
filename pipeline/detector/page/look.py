"""What a page shows of the file itself."""

from __future__ import annotations

from pathlib import Path

from cache_schemas.files import file_sha256
from pipeline import media
from pipeline.detector.explain import Explained
from pipeline.detector.page.film import small_film
from pipeline.detector.page.shown import Face, Film, Shown, Spectrum


def look(path: Path, explained: Explained) -> Shown:
    """The film, faces and sound of a file that was looked at; what cannot be had is said: nothing raises an error.

    A file that could not be scored may be a film all the same.
    """
    try:
        size, sha256 = media.check_file(path), file_sha256(path)
    except (media.MediaError, OSError):
        return Shown()
    film, missing = _film(path, explained)
    seen = explained.looked_at
    if seen is None:
        return Shown(sha256, size, film, missing=missing)
    faces = tuple(map(Face, seen.starts_s, seen.crops))
    of = explained.prediction.explanation
    w = seen.starts_s.index(of.window_s) if of else 0
    return Shown(sha256, size, film, faces, Spectrum(seen.starts_s[w], seen.spectrogram[w]), missing)


def _film(path: Path, explained: Explained) -> tuple[Film | None, tuple[str, ...]]:
    windows = explained.prediction.windows
    around_s = max(windows, key=lambda window: window.score).start_s if windows else 0.0
    try:
        return small_film(media.anywhere(path), around_s=around_s), ()
    except ModuleNotFoundError as error:  # what reads a file need not be able to write one
        return None, (
            f"There is no preview to play: it needs {error.name}, which is not installed (bmnas's extra `train`).",
        )
    except (media.MediaError, RuntimeError, OSError) as error:
        return None, (f"There is no preview to play: {error}.",)
