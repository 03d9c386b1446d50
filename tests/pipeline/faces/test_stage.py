"""The stage on real media: a photographed face that ffmpeg moves, leaves out, cuts away, doubles."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import facenet_pytorch
import numpy as np
import pytest
from matplotlib.cbook import get_sample_data
from PIL import Image

from cache_schemas.manifest import Clip, write_manifest
from cache_schemas.media import FACES, SPECTROGRAMS, write_windows
from cache_schemas.shards import ClipResult, write_shard
from cache_schemas.windows import ClipWindows
from pipeline import media
from pipeline.faces.clip import smallest_face_px
from pipeline.faces.contact_sheets import write_contact_sheets
from pipeline.faces.following import iou
from pipeline.faces.stage import clip_faces, face_key
from pipeline.params import DataParams, FaceParams, Params, WindowParams
from pipeline.shards.stage import ClipJob
from pipeline.sound.stage import spectrogram_key
from pipeline.workspace import Workspace

PORTRAIT = str(get_sample_data("grace_hopper.jpg", asfileobj=False))
CLIP = Clip("c0", "clip.mkv", "", "", "", "", 0, None, 0, "", "", "test", 0)
RATE = 16000
NOISE = "noise=alls=4:allf=t"


def film(folder: Path, graph: str, *, seconds: float = 2.0, size: str = "360x288") -> Path:
    """A clip of ffmpeg's: `graph` lays the portrait [1] over grey [0]."""
    path = folder / "clip.mkv"
    inputs = ["-f", "lavfi", "-i", f"color=gray:s={size}:r=25", "-loop", "1", "-i", PORTRAIT]
    arguments = [*inputs, "-filter_complex", graph + f",{NOISE}", "-t", str(seconds), "-crf", "18", str(path)]
    subprocess.run([media.ffmpeg_exe(), "-y", "-loglevel", "error", *arguments], check=True)
    return path


def run(path: Path, *, seconds: float = 2.0, starts: tuple[float, ...] = (0.0,), **faces: object) -> ClipResult:
    params = Params(faces=FaceParams.model_validate(faces), windows=WindowParams(window_s=seconds))
    return clip_faces(ClipJob(CLIP, "plan", ClipWindows("c0", starts, seconds)), path, params)


PLACED = "[1]scale=iw*0.5:-2[face];[0][face]overlay"


@pytest.mark.parametrize("search", ["follow", "every"])
def test_one_person_in_the_middle_of_every_crop(tmp_path: Path, search: str) -> None:
    result = run(film(tmp_path, f"{PLACED}=x=60:y=0"), search=search, size_px=64)
    assert result.arrays["crops"].shape == (1, 8, 64, 64, 3)
    assert result.info == {"people": 1, "presence": 1.0, "scenes": 1}
    boxes = result.arrays["boxes"][0]
    assert (boxes[:, 0] > 120).all()
    assert (boxes[:, 2] < 280).all()
    assert (result.arrays["probabilities"] > 0.9).all()
    assert result.arrays["landmarks"].shape == (1, 8, 5, 2)
    # Skin in the middle, not the grey beside the portrait.
    middle = result.arrays["crops"][0, :, 28:40, 28:40].mean(axis=(0, 1, 2))
    assert middle[0] > middle[2] + 30


def test_both_searches_see_the_same(tmp_path: Path) -> None:
    path = film(tmp_path, f"{PLACED}=x=40+20*t:y=10")
    follow, every = (run(path, search=search).arrays["boxes"][0] for search in ("follow", "every"))
    assert abs(follow - every).max() < 15  # of a face of 100 px


def test_alignment_none_cuts_the_box_and_similarity_turns(tmp_path: Path) -> None:
    path = film(tmp_path, "[1]scale=iw*0.5:-2,rotate=0.35:c=gray[face];[0][face]overlay=x=60:y=0")
    straight, turned = (run(path, align=align).arrays["crops"] for align in ("none", "similarity"))
    assert straight.shape == turned.shape
    assert abs(straight.astype(int) - turned.astype(int)).mean() > 10


@pytest.mark.parametrize("search", ["follow", "every"])
def test_where_two_take_turns_before_one_wall_a_window_shows_one_of_them(tmp_path: Path, search: str) -> None:
    """The second is the portrait mirrored and darker, at the same place, from 1.2 s on."""
    graph = (
        "[1]scale=iw*0.3:-2,split[p][q];[0]split[g][h];[q]hflip,lutyuv=y=val*0.5[dark];"
        "[g][p]overlay=x=110:y=40,trim=end_frame=30[a];[h][dark]overlay=x=112:y=41,trim=end_frame=20[b];[a][b]concat"
    )
    result = run(film(tmp_path, graph), search=search)
    assert result.info["scenes"] == 2
    assert (result.arrays["probabilities"][0] > 0).tolist() == [True] * 5 + [False] * 3
    crops = result.arrays["crops"][0]
    assert all(np.array_equal(crop, crops[4]) for crop in crops[5:])  # of the one who is gone, not of the other


@pytest.mark.parametrize("search", ["follow", "every"])
def test_windows_after_a_cut_show_the_face_of_their_scene(tmp_path: Path, search: str) -> None:
    """The face is on the left for a window, then on the right against another ground."""
    graph = (
        f"{PLACED}=x=-40:y=0,trim=end=2[a];"
        "[1]scale=iw*0.4:-2[small];color=navy:s=360x288:r=25[blue];[blue][small]overlay=x=150:y=30,trim=end=2[b];"
        "[a][b]concat"
    )
    result = run(film(tmp_path, graph, seconds=4), starts=(0.0, 2.0), search=search)
    assert result.info["scenes"] == 2
    lefts = result.arrays["boxes"][:, :, 0]
    assert (lefts[0] < 100).all()
    assert (lefts[1] > 200).all()


def test_of_two_people_the_larger_is_kept_and_the_other_counted(tmp_path: Path) -> None:
    graph = (
        "[1]split[p][q];[p]scale=iw*0.45:-2[large];[q]scale=iw*0.25:-2,hflip[small];"
        "[0][large]overlay=x=10:y=0[one];[one][small]overlay=x=230:y=60"
    )
    result = run(film(tmp_path, graph))
    assert result.info["people"] == 2
    assert (result.arrays["boxes"][0, :, 2] < 200).all()


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        ("[0]null", "no face found in any of"),
        (
            "[1]scale=iw*0.5:-2[face];[0][face]overlay=x=60:y=0:enable='lt(t,0.5)'",
            "no face is seen for long enough: in 25% of a window's pictures at most, at least 50% needed",
        ),
        ("[1]scale=iw*0.05:-2[face];[0][face]overlay=x=160:y=100", "no face found"),
    ],
)
def test_without_a_face_for_long_enough_the_reason_is_said(tmp_path: Path, graph: str, said: str) -> None:
    with pytest.raises(media.MediaError, match=said):
        run(film(tmp_path, graph))


@pytest.mark.parametrize("search", ["follow", "every"])
@pytest.mark.parametrize("turned", ["transpose=1", "hflip,vflip", "transpose=2"])
def test_a_face_that_is_turned_with_no_tag_to_say_so_is_not_cut(tmp_path: Path, turned: str, search: str) -> None:
    """MTCNN sees some such faces, with the eyes where the mouth is."""
    path = film(tmp_path, f"[1]scale=iw*0.45:-2,{turned}[face];[0][face]overlay=x=0:y=0", seconds=1)
    with pytest.raises(media.MediaError, match="turned"):
        run(path, seconds=1, search=search)


def test_the_smallest_face_grows_with_the_picture(tmp_path: Path) -> None:
    """What is looked for in 540 lines and below is what the parameter says; in portrait the width counts."""
    path = film(tmp_path, "[0]null", seconds=0.2)

    def smallest(width: int, height: int, **faces: object) -> float:
        found = replace(media.probe(path), width_px=width, height_px=height)
        return smallest_face_px(found, FaceParams.model_validate(faces))

    sizes = [(360, 288), (960, 540), (1280, 720), (1920, 1080), (3840, 2160), (1080, 1920)]
    assert [round(smallest(*size)) for size in sizes] == [30, 30, 40, 60, 60, 34]
    assert smallest(1920, 1080, min_face_px=90) == 90


@pytest.mark.parametrize("height", [270, 720])
def test_in_any_number_of_lines_the_face_is_where_facenet_pytorch_sees_it(tmp_path: Path, height: int) -> None:
    """Its own boxes of one photograph in 270 and in 540 lines overlap by 0.94 only, and ours are of 360."""
    scaled = f"[1]scale=-2:{height}[face];[0][face]overlay=x={height // 2}:y=0"
    path = film(tmp_path, scaled, seconds=0.6, size=f"{height * 16 // 9}x{height}")
    result = run(path, seconds=0.6, frames=4)
    assert result.info["presence"] == 1.0
    theirs = facenet_pytorch.MTCNN()
    pictures = media.read_frames(path, [0.075, 0.225, 0.375, 0.525]).pixels
    boxes = np.stack([theirs.detect(Image.fromarray(picture))[0][0] for picture in pictures]).astype(float)
    assert iou(result.arrays["boxes"][0].astype(float), boxes).mean() > 0.9


def test_a_face_that_leaves_is_marked_unseen(tmp_path: Path) -> None:
    result = run(film(tmp_path, f"{PLACED}=x=60:y=0:enable='lt(t,1.4)'"))
    assert (result.arrays["probabilities"][0] > 0).tolist() == [True] * 6 + [False] * 2
    assert result.info["presence"] == 0.75


@pytest.mark.parametrize("size", ["288x512", "24x24", "720x64", "8x8", "4000x16"])
def test_pictures_of_any_shape(tmp_path: Path, size: str) -> None:
    path = film(tmp_path, f"{PLACED}=x=10:y=0", size=size)
    if size == "288x512":
        assert run(path).info["presence"] == 1
    else:
        with pytest.raises(media.MediaError, match="no face"):
            run(path)


def test_a_short_clip_that_is_played_again_shows_the_same_crops_again(tmp_path: Path) -> None:
    path = film(tmp_path, f"{PLACED}=x=60:y=0", seconds=0.5)
    params = Params(windows=WindowParams(window_s=2.0), faces=FaceParams(frames=4))
    crops = clip_faces(ClipJob(CLIP, "plan", ClipWindows("c0", (0.0,), 0.5)), path, params).arrays["crops"][0]
    assert all(np.array_equal(crop, crops[0]) for crop in crops)


def test_the_last_picture_shows_the_face_too(tmp_path: Path) -> None:
    """Not each picture is followed: the last one, at 0.96 s, is not, and is cut."""
    path = film(tmp_path, f"{PLACED}=x=60:y=0", seconds=1)
    params = Params(windows=WindowParams(window_s=1.0), faces=FaceParams(frames=25))
    result = clip_faces(ClipJob(CLIP, "plan", ClipWindows("c0", (0.0,), 1.0)), path, params)
    assert (result.arrays["probabilities"] > 0).all()


def test_contact_sheets_show_every_window_of_every_clip(tmp_path: Path) -> None:
    path = film(tmp_path, f"{PLACED}=x=60:y=0:enable='lt(t,3.4)'", seconds=4)
    path = path.rename(tmp_path / "100% [red].mkv")
    params = Params(data=DataParams(root=str(tmp_path)), windows=WindowParams(window_s=2.0))
    workspace = Workspace(tmp_path / "work")
    windows = ClipWindows("c0", (0.0, 2.0), 2.0)
    write_manifest(workspace.manifest, [replace(CLIP, path="100%25 [red].mkv")])
    write_windows(workspace.windows, [windows])
    result = clip_faces(ClipJob(CLIP, "plan", windows), path, params)
    write_shard(workspace.faces, FACES, face_key(params), [result, ClipResult("c1", "plan", reason="no face")])
    waves = (8000 * np.sin(2 * np.pi * 440 * np.arange(4 * RATE) / RATE)).astype(np.int16).reshape(2, -1)
    arrays = {"spectrogram": np.zeros((2, 64, 200), np.float32), "waveform": waves}
    sound = ClipResult("c0", "", windows.starts_s, arrays)
    write_shard(workspace.spectrograms, SPECTROGRAMS, spectrogram_key(params), [sound])
    assert write_contact_sheets(tmp_path / "sheets", workspace, params) == 1
    played = media.read_sound(tmp_path / "sheets" / "c0.mp4", sample_rate_hz=RATE)
    begin = played.samples[: 4 * RATE]
    assert np.corrcoef(begin, waves.reshape(-1)[: len(begin)])[0, 1] > 0.99
    pictures = media.read_frames(tmp_path / "sheets" / "c0.mp4", played.probe.times_s.tolist()).pixels
    assert np.abs(pictures.astype(int) - result.arrays["crops"].reshape(pictures.shape)).mean() < 4
    with Image.open(tmp_path / "sheets" / "c0.png") as sheet:
        assert sheet.size == (10 * 112, 2 * 112)
        corners = [sheet.getpixel((224 + 112 * f + 1, 112 * w + 1)) for w in range(2) for f in range(8)]
    assert [corner == (230, 40, 40) for corner in corners] == [False] * 14 + [True] * 2
    path.unlink()
    assert write_contact_sheets(tmp_path / "sheets", workspace, params) == 0


def test_the_key_holds_what_changes_values_and_stays_as_it_was() -> None:
    def key(**changes: object) -> str:
        return face_key(Params.model_validate({"faces": changes}))

    assert key() == "c7fcf7ec39ace068"  # of shards that lie on disks
    assert key(codec="webp") == key()
    assert len({key(), key(codec="jpeg"), key(size_px=112)}) == 3
