"""The small copy: what it shows and when, how large it is, and what there is no copy of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline import media
from pipeline.detector.page import film
from pipeline.detector.page.film import small_film
from tests.pipeline.clips import make_clip


def read_back(content: bytes, folder: Path) -> Path:
    path = folder / "film.mp4"
    path.write_bytes(content)
    return path


def test_a_film_is_small_and_keeps_picture_and_sound_in_step(tmp_path: Path) -> None:
    flash = "color=s=1280x720:r=50:d=3,drawbox=c=white:t=fill:enable='gte(t,1.5)'"
    clip = make_clip(tmp_path / "clip.mp4", picture=flash, sound="aevalsrc='gte(t,1.5)*sin(2764*t)'", seconds=3)
    made = small_film(clip, around_s=0)
    assert (made.start_s, made.whole) == (0, True)
    path = read_back(made.mp4, tmp_path)
    found = media.probe(path)
    assert (found.codec, found.width_px, found.height_px, found.fps) == ("h264", 640, 360, pytest.approx(25))
    assert found.duration_s == pytest.approx(3, abs=0.05)
    with media.open_video(path, full_at_s=[], small_height_px=8) as video:
        frames = list(video.small())
    bright = np.concatenate([batch.pixels.mean(axis=(1, 2, 3)) for batch in frames]) > 128
    assert np.concatenate([batch.times_s for batch in frames])[bright].min() == pytest.approx(1.5, abs=0.05)
    sound = media.read_sound(path, sample_rate_hz=16000)
    assert np.flatnonzero(np.abs(sound.samples) > 0.1)[0] / 16000 == pytest.approx(1.5, abs=0.05)


def test_of_a_long_file_there_is_the_part_around_the_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film, "LONGEST_S", 2.0)
    clip = make_clip(tmp_path / "clip.mp4", "-g", "10", *("-c:v", "libx264", "-c:a", "aac"), seconds=6)
    for around, span in ((0.0, (0, 2)), (3.0, (2, 4)), (5.9, (4, 6))):
        made = small_film(clip, around_s=around)
        assert (made.start_s, made.end_s) == pytest.approx(span, abs=0.05)
        assert not made.whole
        assert media.probe(read_back(made.mp4, tmp_path)).duration_s == pytest.approx(2, abs=0.1)


def test_noise_is_no_larger_than_the_rate_allows(tmp_path: Path) -> None:
    noise = "nullsrc=s=640x360:r=25,geq=random(1)*255:128:128"
    clip = make_clip(tmp_path / "clip.mp4", picture=noise, sound="anoisesrc", seconds=3)
    at_once = 80_000  # what the rate's limiter lets go by at the beginning
    rate = (len(small_film(clip, around_s=0).mp4) - at_once) / 3
    assert (rate * film.LONGEST_S + at_once) * 4 / 3 < 8e6


@pytest.mark.parametrize(("size", "rate"), [("2x2", 25), ("64x2", 5), ("1600x90", 25), ("90x1600", 12.5), ("97x53", 1)])
def test_any_shape_and_pace(size: str, rate: float, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mkv", "-c:v", "ffv1", picture=f"testsrc=s={size}:r={rate}", sound=None, seconds=2)
    found = media.probe(read_back(small_film(clip, around_s=0).mp4, tmp_path))
    assert found.duration_s == pytest.approx(2, abs=0.1)
    assert found.n_audio == 0
    assert max(found.width_px / 640, found.height_px / 360) <= 1


def test_what_is_no_clip_has_no_film(tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("no video")
    with pytest.raises(media.MediaError, match="not a media file"):
        small_film(tmp_path / "notes.mp4", around_s=0)


ALONE = """
import sys
sys.modules[sys.argv[1]] = None
from pathlib import Path
from pipeline.detector.explain import Explained
from pipeline.detector.page.look import look
from pipeline.detector.prediction import unscored
shown = look(Path(sys.argv[2]), Explained(unscored(sys.argv[2], "no face"), None))
print(shown.bytes, shown.film, *shown.missing)
"""


@pytest.mark.parametrize("package", ["ffmpeg", "imageio_ffmpeg"])
def test_without_what_writes_films_a_page_says_so(tmp_path: Path, package: str) -> None:
    clip = make_clip(tmp_path / "clip.mp4", seconds=1)
    argv = [sys.executable, "-c", ALONE, package, clip]
    said = subprocess.run(argv, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[4]).stdout
    needs = f"There is no preview to play: it needs {package}, which is not installed (bmnas's extra `train`)."
    assert said == f"{clip.stat().st_size} None {needs}\n"
