"""Which codecs are decoded at all."""

from pathlib import Path

import pytest

from pipeline import media
from tests.pipeline.clips import make_clip

STRANGE = {
    "snow.mkv": ("-c:v", "snow", "-strict", "-2"),
    "jpeg2000.mov": ("-c:v", "jpeg2000"),
    "dpx.mkv": ("-c:v", "dpx"),
    "png.mov": ("-c:v", "png"),
    "zmbv.avi": ("-c:v", "zmbv"),
}
USUAL = {
    "prores.mov": ("-c:v", "prores_ks", "-c:a", "pcm_s24le"),
    "hevc.mp4": ("-c:v", "libx265", "-x265-params", "log-level=none", "-c:a", "ac3"),
    "mjpeg.avi": ("-c:v", "mjpeg", "-c:a", "adpcm_ms"),
    "flv1.flv": ("-c:v", "flv1", "-c:a", "mp3"),
    "wmv2.asf": ("-c:v", "wmv2", "-c:a", "wmav2"),
    "ffv1.mkv": ("-c:v", "ffv1", "-c:a", "alac"),
    "theora.ogg": ("-c:v", "libtheora", "-c:a", "libvorbis"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_codec_that_no_camera_writes_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = make_clip(tmp_path / name, *STRANGE[name], sound=None, seconds=0.2)
    refused = rf"codec \({path.stem}\) is none that is accepted"
    for read in (media.probe, lambda path: media.read_frames(path, [0.1])):
        with pytest.raises(media.MediaError, match=refused):
            read(path)


def test_so_is_one_of_sound(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "c.mkv", "-c:v", "libx264", "-c:a", "tta", seconds=0.2)
    with pytest.raises(media.MediaError, match=r"sound's codec \(tta\)"):
        media.read_sound(path, sample_rate_hz=16000)


@pytest.mark.parametrize("name", USUAL)
def test_usual_codecs_are_read(tmp_path: Path, name: str) -> None:
    path = make_clip(tmp_path / name, *USUAL[name], picture="testsrc=s=176x144:r=25", seconds=0.4)
    assert media.read_frames(path, [0.1]).pixels.std() > 1
    assert len(media.read_sound(path, sample_rate_hz=16000).samples) > 3000
