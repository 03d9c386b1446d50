"""Pictures come upright, with square pixels, without combs, in the colours that a screen shows."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline import media
from tests.pipeline.clips import copy_clip, make_clip

Pixels = NDArray[np.uint8]
EXACT = ("-c:v", "libx264", "-preset", "ultrafast", "-qp", "0")
CORNERS = "nullsrc=s=64x48:r=25,format=yuv444p,geq=lum='60+60*lt(X,32)+100*lt(Y,24)':cb=128:cr='128+40*lt(X,32)'"
"""Four quarters that differ, so that each of the eight ways to hold a picture is told from the others."""


def first(path: Path) -> Pixels:
    """(H, W, 3) the first picture; its size is what the probe says, of both readers."""
    found = media.probe(path)
    pixels: Pixels = media.read_frames(path, [0.0]).pixels[0]
    assert pixels.shape == (found.height_px, found.width_px, 3)
    return pixels


def by_ffmpeg(path: Path, height_px: int, width_px: int) -> Pixels:
    """The first picture as ffmpeg's command shows it."""
    command = [media.ffmpeg_exe(), "-v", "error", "-i", path, "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    data = subprocess.run([*command, "-"], check=True, capture_output=True).stdout
    return np.frombuffer(data, np.uint8).reshape(height_px, width_px, 3)


def quarters(pixels: Pixels) -> NDArray[np.float64]:
    """(2, 2, 3) the colours of the four quarters' middles."""
    height, width = pixels.shape[:2]
    rows, columns = ([size // 4, 3 * size // 4] for size in (height, width))
    return pixels[np.ix_(rows, columns)].astype(float)


def difference(some: NDArray[np.generic], others: object) -> float:
    return float(np.abs(some.astype(float) - np.asarray(others, float)).max())


@pytest.fixture(scope="module")
def upright(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("upright") / "upright.mp4", *EXACT, picture=CORNERS, seconds=0.4)


@pytest.mark.parametrize("flips", [(), ("-display_hflip",)], ids=["", "mirrored"])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_all_eight_orientations_come_upright(
    tmp_path: Path, upright: Path, degrees: int, flips: tuple[str, ...]
) -> None:
    path = copy_clip(upright, tmp_path / "turned.mp4", before=["-display_rotation", str(degrees), *flips])
    pixels = first(path)
    assert pixels.shape[:2] == ((48, 64) if degrees % 180 == 0 else (64, 48))
    assert difference(quarters(pixels), quarters(by_ffmpeg(path, *pixels.shape[:2]))) < 4
    if not flips:
        assert difference(quarters(pixels), np.rot90(quarters(first(upright)), degrees // 90)) < 4


def test_a_title_turns_nothing(tmp_path: Path, upright: Path) -> None:
    title = "displaymatrix: rotation of 90.00 degrees"
    path = copy_clip(upright, tmp_path / "title.mp4", "-metadata", f"title={title}")
    assert np.array_equal(first(path), first(upright))
    assert media.read_sound(path, sample_rate_hz=8000).probe.width_px == 64


def test_a_second_tracks_matrix_turns_nothing(tmp_path: Path, upright: Path) -> None:
    turned = copy_clip(upright, tmp_path / "turned.mp4", before=["-display_rotation", "90"])
    path = copy_clip(upright, tmp_path / "two.mp4", "-i", str(turned), "-map", "0:v", "-map", "1:v", "-map", "0:a")
    assert np.array_equal(first(path), first(upright))


def test_an_orientation_beside_the_picture_turns_all_that_follow(tmp_path: Path, upright: Path) -> None:
    turning = ["-bsf:v", "h264_metadata=display_orientation=insert:rotate=90"]
    path = copy_clip(upright, tmp_path / "sei.mp4", *turning)
    expected = np.rot90(quarters(first(upright)))
    assert difference(quarters(first(path)), expected) < 4
    assert difference(quarters(media.read_frames(path, [0.3]).pixels[0]), expected) < 4
    assert media.read_sound(path, sample_rate_hz=8000).probe.height_px == 64


def test_an_orientation_that_lies_beside_unknown_data_counts(tmp_path: Path) -> None:
    # What PyAV has no name for, here a photograph's notes; phones' films for two eyes hold another.
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, :32, 0], picture[:24, :, 1] = 255, 200
    Image.fromarray(picture).save(tmp_path / "a.jpg", exif=exif, quality=95)
    path = copy_clip(tmp_path / "a.jpg", tmp_path / "photographs.mov")
    assert difference(quarters(first(path)), np.rot90(quarters(picture), -1)) < 12


CIRCLE = "color=black:s=720x576:r=25,format=yuv420p,geq=lum='16+200*lt(hypot((X-360)*64/45,Y-288),200)':cb=128:cr=128"
"""A circle on a screen that shows each pixel 64:45 as wide as it is high."""


def shape(pixels: Pixels) -> float:
    """The width of what is bright, as a multiple of its height."""
    bright = pixels.mean(axis=2) > 100
    return float(bright.any(axis=0).sum() / bright.any(axis=1).sum())


@pytest.fixture(scope="module")
def squeezed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("squeezed") / "squeezed.mkv"
    return make_clip(path, "-vf", "setsar=64/45", *EXACT, picture=CIRCLE, seconds=0.12, sound=None)


def test_a_circle_is_round(tmp_path: Path, squeezed: Path) -> None:
    assert first(squeezed).shape == (576, 1024, 3)
    assert shape(first(squeezed)) == pytest.approx(1, abs=0.01)
    assert media.probe(squeezed).pixel_aspect == pytest.approx(64 / 45, abs=0.001)
    turned = copy_clip(squeezed, tmp_path / "turned.mp4", before=["-display_rotation", "90"])
    assert first(turned).shape == (1024, 576, 3)
    assert shape(first(turned)) == pytest.approx(1, abs=0.01)
    with media.open_video(squeezed, full_at_s=[0.0], small_height_px=288) as video:
        small = next(video.small(1)).pixels[0]
    assert small.shape == (288, 512, 3)
    assert shape(small) == pytest.approx(1, abs=0.02)


def test_the_containers_pixel_aspect_goes_before_the_pictures(tmp_path: Path, squeezed: Path) -> None:
    path = copy_clip(squeezed, tmp_path / "both.mp4", "-aspect", "5:4")  # a container's own, of square pixels
    assert first(path).shape == (576, 720, 3)


@pytest.mark.parametrize("aspect", ["1/1000", "1000/1"])
def test_senseless_pixel_aspects_count_as_square(tmp_path: Path, aspect: str) -> None:
    path = make_clip(tmp_path / "a.mp4", "-vf", f"setsar={aspect}", *EXACT, seconds=0.12, sound=None)
    assert first(path).shape == (48, 64, 3)


def coded(path: Path, rgb: NDArray[np.float64], matrix: tuple[float, float], *options: str, bits: int = 8) -> Path:
    """A clip of 128 x 64 pixels whose halves are of two colours (2, 3), from 0 to 1; matrix: K_r and K_b."""
    kr, kb = matrix
    luma = rgb @ [kr, 1 - kr - kb, kb]
    chroma = [(rgb[:, 2] - luma) / (2 - 2 * kb), (rgb[:, 0] - luma) / (2 - 2 * kr)]
    scale = 2 ** (bits - 8)
    planes = [np.full((64, 128), 0) + np.repeat(np.round((16 + 219 * luma) * scale), 64)]
    planes += [np.full((32, 64), 0) + np.repeat(np.round((128 + 224 * each) * scale), 32) for each in chroma]
    data = b"".join(plane.astype("<u2" if bits > 8 else np.uint8).tobytes() for plane in planes)
    layout = "yuv420p10le" if bits > 8 else "yuv420p"
    command = [media.ffmpeg_exe(), "-y", "-v", "error", "-f", "rawvideo", "-pix_fmt", layout, "-s", "128x64", "-i", "-"]
    subprocess.run([*command, *options, f"file:{path}"], check=True, input=5 * data)
    return path


def halves(pixels: Pixels) -> Pixels:
    """(2, 3) the colours of the left and the right half."""
    height, width = pixels.shape[:2]
    return pixels[height // 2, [width // 4, 3 * width // 4]]


SKIN_AND_GREY = np.array([[198, 134, 66], [128, 128, 128]])
BT601, BT709, BT2020 = (0.299, 0.114), (0.2126, 0.0722), (0.2627, 0.0593)
WIDE = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])


def pq(nits: NDArray[np.float64]) -> NDArray[np.float64]:
    light = (nits / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * light) / (1 + 18.6875 * light)) ** 78.84375


def hlg(nits: NDArray[np.float64]) -> NDArray[np.float64]:
    luminance = (nits / 1000) @ [0.2627, 0.6780, 0.0593]
    scene = nits / 1000 * luminance[:, None] ** (1 / 1.2 - 1)
    bright = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), bright)


@pytest.mark.parametrize(("name", "signal"), [("smpte2084", pq), ("arib-std-b67", hlg)], ids=["PQ", "HLG"])
def test_hdr_looks_like_sdr(tmp_path: Path, name: str, signal: Callable[..., NDArray[np.float64]]) -> None:
    light = ((SKIN_AND_GREY / 255 + 0.055) / 1.055) ** 2.4
    tags = f"log-level=error:colorprim=bt2020:transfer={name}:colormatrix=bt2020nc"
    x265 = ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", f"{tags}:qp=4"]
    path = coded(tmp_path / "hdr.mp4", signal(203 * light @ WIDE.T), BT2020, *x265, bits=10)
    found = media.probe(path)
    assert (found.transfer, found.bit_depth) == (name.replace("-", "_"), 10)
    assert difference(halves(first(path)), SKIN_AND_GREY) < 9
    brighter = coded(tmp_path / "bright.mp4", signal(np.full((2, 3), 900.0)), BT2020, *x265, bits=10)
    assert halves(first(brighter)).min() > 250


MPEG2 = ("-c:v", "mpeg2video", "-q:v", "1")


@pytest.mark.parametrize("tag", ["0", "3", "2"], ids=["of GBR", "reserved", "unspecified"])
def test_colours_that_h264_tags_as_nothing_are_those_of_sd(tmp_path: Path, tag: str) -> None:
    tags = f"h264_metadata=colour_primaries={tag}:transfer_characteristics={tag}:matrix_coefficients={tag}"
    path = coded(tmp_path / "a.mp4", SKIN_AND_GREY / 255, BT601, *EXACT, "-bsf:v", tags)
    assert difference(halves(first(path)), SKIN_AND_GREY) < 4
    assert media.probe(path).transfer == "unspecified"


@pytest.mark.parametrize("tag", ["3", "77"], ids=["reserved", "no meaning"])
def test_colours_that_mpeg2_tags_as_nothing_are_those_of_sd(tmp_path: Path, tag: str) -> None:
    tags = f"mpeg2_metadata=colour_primaries={tag}:transfer_characteristics={tag}:matrix_coefficients={tag}"
    path = coded(tmp_path / "a.mkv", SKIN_AND_GREY / 255, BT601, *MPEG2, "-bsf:v", tags)
    assert difference(halves(first(path)), SKIN_AND_GREY) < 6
    assert media.probe(path).transfer == "unspecified"


@pytest.mark.parametrize(("size", "matrix"), [("1280x720", BT709), ("576x1024", BT709), ("720x576", BT601)])
def test_untagged_hd_is_bt709(tmp_path: Path, size: str, matrix: tuple[float, float]) -> None:
    scaled = ["-vf", f"scale={size}:flags=neighbor", *EXACT]
    path = coded(tmp_path / "a.mp4", SKIN_AND_GREY / 255, matrix, *scaled)
    assert difference(halves(first(path)), SKIN_AND_GREY) < 4
    with media.open_video(path, full_at_s=[0.0], small_height_px=180) as video:  # that it is small does not count
        assert difference(halves(next(video.small(1)).pixels[0]), SKIN_AND_GREY) < 4


def test_full_range_stays_full(tmp_path: Path) -> None:
    full = ["-vf", "scale=out_range=full,format=yuvj420p", "-color_range", "pc", *EXACT]
    path = coded(tmp_path / "a.mp4", SKIN_AND_GREY / 255, BT601, *full)
    assert difference(halves(first(path)), SKIN_AND_GREY) < 4


def test_colours_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    tag = "h264_metadata=matrix_coefficients=8"
    path = coded(tmp_path / "a.mp4", SKIN_AND_GREY / 255, BT601, *EXACT, "-bsf:v", tag)
    with pytest.raises(media.MediaError, match="matrix 8"):
        media.read_frames(path, [0.0])


MOVING = "nullsrc=s=96x64:r=50,format=yuv420p,geq=lum='40+160*lt(mod(X+4*N,32),16)':cb=128:cr=128"


def test_interlaced_pictures_have_no_combs(tmp_path: Path) -> None:
    fields = ["-vf", "tinterlace=interleave_top,setfield=tff", *EXACT, "-flags", "+ildct+ilme"]
    path = make_clip(tmp_path / "a.mp4", *fields, picture=MOVING, seconds=0.8, sound=None)
    found = media.probe(path)
    assert (found.interlaced, len(found.times_s)) == (True, 20)
    frames = media.read_frames(path, [0.0, 0.2, 0.4])
    assert frames.times_s.tolist() == [0.0, 0.2, 0.4]
    pixels = frames.pixels.astype(float)
    assert np.abs(np.diff(pixels[:, 4:-4], axis=1)).mean() < 1
    moved = np.abs(np.diff(pixels[:, 32, :, 0], axis=0)).mean()
    assert moved > 20  # each is the picture of its own time
    whole = make_clip(tmp_path / "b.mp4", *EXACT, picture=MOVING, seconds=0.1, sound=None)
    assert media.probe(whole).interlaced is False


@pytest.mark.parametrize("layout", ["yuv420p", "yuv422p10le", "gray", "gbrp"])
@pytest.mark.parametrize("size", ["1x1", "2x2", "8x8", "17x15", "4000x16", "16x1000", "3x201"])
def test_small_and_odd_pictures_read(tmp_path: Path, size: str, layout: str) -> None:
    picture = f"color=0x808080:s={size}:r=25"
    lossless = ["-c:v", "ffv1", "-level", "1", "-pix_fmt", layout]
    path = make_clip(tmp_path / "a.mkv", *lossless, picture=picture, seconds=0.12, sound=None)
    pixels = first(path)
    assert pixels.shape == (*(int(side) for side in reversed(size.split("x"))), 3)
    assert difference(pixels, 128) < 4
