"""Files of other people's projects that were read wrongly once; `expected.csv` beside them says what is right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline import media
from pipeline.media import process
from tests.pipeline.media.decoding import check_jumps


def test_open_groups_of_a_phone(field: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HEVC; the reader lands a group early, or two."""
    monkeypatch.setattr(process, "WALL_SECONDS", 20.0)
    path = field / "mayiyahei.MP4"
    assert len(media.probe(path).times_s) == 222
    check_jumps(path, starts_s=(0.0, 1.9, 5.2), window_s=1.0)


def test_pictures_without_stamps(field: Path) -> None:
    """H.264 in a program stream: 21 of 180 packets carry a stamp."""
    path = field / "cfr.mpeg"
    info = media.probe(path)
    assert (len(info.times_s), info.fps, info.audio) == (180, pytest.approx(60), None)
    numbers = np.rint(media.read_frames(path, [0, 0.667, 1.45, 2.95]).times_s * 60)
    assert numbers == pytest.approx([0, 40, 87, 177], abs=1)


def test_keys_that_are_none(field: Path) -> None:
    """The container names five keys; two pictures are."""
    path = field / "MOV00006.3gp"
    assert len(media.probe(path).times_s) == 222
    check_jumps(path, starts_s=(0.0, 3.6, 7.0, 9.5, 13.7), window_s=0.8)


def test_hidden_pictures(field: Path) -> None:
    info = media.probe(field / "roadtrip-vp92-10bit.webm")
    assert (len(info.times_s), info.audio) == (72, None)


@pytest.mark.parametrize(
    ("name", "reason"), [("sample.mkv", "cut short"), ("sample_fragmented_widevine.mp4", "encrypted")]
)
def test_reasons(field: Path, name: str, reason: str) -> None:
    with pytest.raises(media.MediaError, match=reason):
        media.probe(field / name)


def test_the_base_view_of_two(field: Path) -> None:
    """MV-HEVC: the other view is left out."""
    path = field / "water_180_mvhevc_5frames.mov"
    info = media.probe(path)
    assert (len(info.times_s), info.audio, info.width_px, info.height_px) == (5, None, 1934, 2160)
    assert media.read_frames(path, info.times_s.tolist()).pixels[-1].std() > 5
