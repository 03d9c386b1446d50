"""A generated data set on disk: the manifest, resuming, determinism, and that no shortcut tells the labels."""

from __future__ import annotations

import csv
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from pipeline.media import ffmpeg_exe
from pipeline.synth import generate
from pipeline.synth.clip import render_clip
from pipeline.synth.picture import canvas_transform
from pipeline.synth.plan import CATEGORIES, plan_clips
from pipeline.synth.take import FPS, FRAME_PX, SAMPLE_RATE_HZ, draw_take

IDENTITIES, CLIPS = 4, 4
FAKES = CATEGORIES[1:]


@dataclass(frozen=True)
class Media:
    """A decoded clip: frames (T, H, W, 3) uint8, samples (N,) float32, ffmpeg's description of the streams."""

    frames: np.ndarray
    samples: np.ndarray
    streams: tuple[str, ...]
    size_bytes: int


def decode(path: Path) -> Media:
    def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([ffmpeg_exe(), "-hide_banner", "-i", path, *arguments], capture_output=True, check=True)

    picture = run("-map", "0:v", "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1")
    sound = run("-map", "0:a", "-f", "f32le", "pipe:1")
    described = picture.stderr.decode().split("Stream mapping")[0]
    # Bit rates are compared by size, names of encoders are the same for all.
    streams = tuple(re.sub(r", \d+ kb/s", "", line.strip()) for line in described.splitlines() if "Stream #0" in line)
    frames = np.frombuffer(picture.stdout, np.uint8).reshape(-1, FRAME_PX, FRAME_PX, 3)
    return Media(frames, np.frombuffer(sound.stdout, np.float32), streams, path.stat().st_size)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synth")
    generate(folder, identities=IDENTITIES, clips_per_identity=CLIPS, jobs=2)
    return folder


@pytest.fixture(scope="module")
def rows(root: Path) -> list[dict[str, str]]:
    with (root / "manifest.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture(scope="module")
def media(root: Path, rows: list[dict[str, str]]) -> dict[tuple[str, str], Media]:
    """(subject, category) -> its decoded clip; one take each."""
    return {(r["subject_id"], r["category"]): decode(root / r["path"]) for r in rows}


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted((root / "clips").iterdir())}


def test_manifest_lists_every_clip_once(root: Path, rows: list[dict[str, str]]) -> None:
    assert ",".join(rows[0]) == (
        "path,dataset,subject_id,source_id,target_id,video_label,audio_label,label,category,method"
    )
    assert [r["path"] for r in rows] == sorted(f"clips/{p.name}" for p in (root / "clips").iterdir())
    assert len(rows) == IDENTITIES * CLIPS
    assert {r["dataset"] for r in rows} == {"synth"}
    assert sorted(p.name for p in root.iterdir()) == ["clips", "manifest.csv", "params.json"]


def test_same_seed_gives_the_same_bytes_in_any_process(root: Path, tmp_path: Path) -> None:
    spec = plan_clips(identities=IDENTITIES, clips_per_identity=CLIPS, difficulty=0.3, seed=0)[0]
    name = render_clip(spec, tmp_path)
    assert (tmp_path / name).read_bytes() == (root / "clips" / name).read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == [name]
    other = plan_clips(identities=IDENTITIES, clips_per_identity=CLIPS, difficulty=0.3, seed=1)[0]
    assert render_clip(other, tmp_path) == name
    assert (tmp_path / name).read_bytes() != (root / "clips" / name).read_bytes()


def test_second_call_renders_nothing(root: Path) -> None:
    before, calls = snapshot(root), []
    generate(root, identities=IDENTITIES, clips_per_identity=CLIPS, jobs=1, progress=calls.append)
    assert snapshot(root) == before
    assert calls == [16]


def test_growing_shrinking_and_changing_parameters(tmp_path: Path) -> None:
    calls: list[int] = []

    def run(identities: int, clips: int, seed: int = 0) -> dict[str, tuple[int, bytes]]:
        calls.clear()
        generate(
            tmp_path,
            identities=identities,
            clips_per_identity=clips,
            seed=seed,
            jobs=1,
            progress=calls.append,
        )
        return snapshot(tmp_path)

    one = run(1, 1)
    (tmp_path / "clips" / "id00001_t0000_FVRA.mp4.partial").write_bytes(b"a run that was killed")
    two = run(2, 1)
    assert calls == [1, 1]
    assert len(two) == 2
    assert one.items() < two.items()
    assert run(1, 1) == one
    assert len((tmp_path / "manifest.csv").read_text().splitlines()) == 2
    changed = run(1, 1, seed=5)
    assert calls == [0, 1]
    assert changed.keys() == one.keys()
    assert changed != one


def test_failed_clip_leaves_no_file_and_no_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.media.writing.ffmpeg_exe", lambda: "/bin/false")
    with pytest.raises(RuntimeError, match=r"id00000_t0000_RVRA.*exit 1"):
        generate(tmp_path, identities=1, clips_per_identity=1, jobs=1)
    assert not (tmp_path / "manifest.csv").exists()
    assert list((tmp_path / "clips").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("identities", 0), ("identities", 2.5), ("clips_per_identity", 0), ("difficulty", 1.5), ("seed", -1), ("jobs", 0)],
)
def test_bad_argument_is_named(name: str, value: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{name} is {value}, allowed are"):
        generate(tmp_path / "new", **{name: value})  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


def leading_silence_s(media: Media) -> float:
    blocks = media.samples[: len(media.samples) // 80 * 80].reshape(-1, 80)
    level = np.sqrt((blocks**2).mean(1))
    return float(np.argmax(level > 0.15 * np.quantile(level, 0.9))) * 80 / SAMPLE_RATE_HZ


def loudness_dbfs(media: Media) -> float:
    return float(10 * np.log10((media.samples**2).mean()))


SHORTCUTS = {
    # name: (measure, largest difference inside a take)
    "duration_s": (lambda m: len(m.samples) / SAMPLE_RATE_HZ, 0.0),
    "frames": (lambda m: len(m.frames), 0),
    "leading_silence_s": (leading_silence_s, 0.025),
    "loudness_db": (loudness_dbfs, 0.3),
    "kbps": (lambda m: m.size_bytes * 8e-3 * FPS / len(m.frames), 15.0),
}


@pytest.mark.parametrize("category", FAKES)
@pytest.mark.parametrize("name", SHORTCUTS)
def test_no_shortcut_tells_fake_from_real(name: str, category: str, media: dict[tuple[str, str], Media]) -> None:
    measure, tolerance = SHORTCUTS[name]
    subjects = sorted({subject for subject, _ in media})
    real = np.array([measure(media[subject, "RVRA"]) for subject in subjects], float)
    fake = np.array([measure(media[subject, category]) for subject in subjects], float)
    np.testing.assert_allclose(fake, real, rtol=0, atol=tolerance)
    assert np.ptp(real) > 3 * tolerance, "takes differ by less than the tolerance: the check would prove nothing"
    labels = np.repeat([0, 1], len(subjects))
    assert 0.3 <= roc_auc_score(labels, np.concatenate([real, fake])) <= 0.7


def test_streams_are_described_alike(media: dict[tuple[str, str], Media]) -> None:
    described = {m.streams for m in media.values()}
    assert len(described) == 1
    picture, sound = described.pop()
    assert re.search(r"Video: h264.*256x256.*25 fps", picture)
    assert re.search(r"Audio: aac.*16000 Hz, mono", sound)


def test_each_category_changes_its_own_modality_alone(media: dict[tuple[str, str], Media]) -> None:
    for subject in {subject for subject, _ in media}:
        real = media[subject, "RVRA"]
        for category in FAKES:
            fake = media[subject, category]
            assert np.array_equal(fake.frames, real.frames) == (category[0] == "R")
            assert np.array_equal(fake.samples, real.samples) == (category[2] == "R")


def mouth_area(media: Media, identity: int, take_index: int = 0) -> np.ndarray:
    """Dark and red area around the mouth in every frame (T,), with the known pose undone."""
    take = draw_take(0, identity, take_index)
    poses = take.motion.pose(np.arange(take.frames) / FPS)
    areas = []
    for frame, pose in zip(media.frames, poses, strict=True):
        a, b, c, d, e, f = canvas_transform(pose)
        x, y, _ = np.linalg.inv([[a, b, c], [d, e, f], [0, 0, 1]]) @ (128, 182, 1)
        box = np.asarray(Image.fromarray(frame).convert("L").crop((x - 20, y - 6, x + 20, y + 22)), float)
        areas.append((box < 0.55 * np.median(box)).sum())
    return np.array(areas, float)


def frame_loudness(media: Media) -> np.ndarray:
    """Level of the sound during each frame (T,)."""
    blocks = media.samples[: len(media.frames) * SAMPLE_RATE_HZ // FPS].reshape(len(media.frames), -1)
    return np.sqrt((blocks**2).mean(1))


def test_mouth_follows_the_sound_in_real_clips_and_not_after_a_redub(
    rows: list[dict[str, str]], media: dict[tuple[str, str], Media]
) -> None:
    scores: dict[bool, list[float]] = {True: [], False: []}
    for row in rows:
        clip = media[row["subject_id"], row["category"]]
        area = mouth_area(clip, int(row["subject_id"][2:]))
        if row["category"] == "RVRA":
            reach = range(-4, 5)
            lags = [np.corrcoef(np.roll(area, -lag), frame_loudness(clip))[0, 1] for lag in reach]
            assert abs(reach[int(np.argmax(lags))]) <= 1
            scores[True].append(lags[4])
        elif row["method"] == "mouth-redub":
            scores[False].append(float(np.corrcoef(area, frame_loudness(clip))[0, 1]))
    assert min(scores[True]) > 0.4
    assert np.mean(scores[True]) > np.mean(scores[False]) + 0.3


@pytest.mark.slow
def test_face_detector_finds_the_drawn_face(media: dict[tuple[str, str], Media]) -> None:
    facenet_pytorch = pytest.importorskip("facenet_pytorch")
    detector = facenet_pytorch.MTCNN(keep_all=True, device="cpu")
    found = []
    for clip in media.values():
        _, probabilities = detector.detect(list(clip.frames[:: len(clip.frames) // 3][:3]))
        found += [best[0] is not None and max(best) > 0.9 for best in probabilities]
    assert np.mean(found) >= 0.99
