"""The stages together, on the built-in data set: what is cached is what would be computed, whatever happened."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import nas
from cache_schemas.features import FeatureCache
from cache_schemas.manifest import read_quarantine
from cache_schemas.media import FACES, SPECTROGRAMS
from cache_schemas.shards import read_rows, scan_shards
from pipeline import media
from pipeline.backbones import load_backbone
from pipeline.faces.stage import build_faces, face_key
from pipeline.features.forward import MODALITIES
from pipeline.features.pretrain import run_pretrain
from pipeline.features.stage import build_features
from pipeline.features.windows import window_sources
from pipeline.manifest.build import build_manifest
from pipeline.params import Params
from pipeline.sound.clip import compute_spectrogram, from_pcm
from pipeline.sound.stage import build_spectrograms, spectrogram_key
from pipeline.workspace import Workspace
from tests.pipeline.conftest import run_to_features, small_params

Run = tuple[Workspace, Params]


def assert_same_cache(one: Workspace, other: Workspace) -> None:
    """Equal values and index, to the bit. `row` is physical order: history, not content."""
    a, b = FeatureCache.open(one.features), FeatureCache.open(other.features)
    assert list(a.index["clip_id"]) == list(b.index["clip_id"])
    assert a.index.equals(b.index)
    left, right = a.load(), b.load()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_faces_of_one_person_upright_and_in_the_middle(small_run: Run) -> None:
    workspace, params = small_run
    entries = scan_shards(workspace.faces, FACES, face_key(params))
    assert len(entries) == 24
    for entry in entries.values():
        assert entry.info["people"] == 1
        found = read_rows(entry.path, FACES, [entry.first_row])
        assert found["crops"].shape == (1, 8, 224, 224, 3)
        assert (found["probabilities"] > 0).mean() >= 0.75
        assert found["probabilities"].max() > 0.9
        sides = found["boxes"][0, :, 2:] - found["boxes"][0, :, :2]
        assert (sides > 40).all()
        shift = np.abs(np.diff(found["boxes"][0], axis=0)).max()
        assert shift < 0.5 * sides.min()


def test_sound_is_cut_behind_its_leading_silence(small_run: Run) -> None:
    workspace, params = small_run
    entries = scan_shards(workspace.spectrograms, SPECTROGRAMS, spectrogram_key(params))
    assert len(entries) == 24
    for entry in entries.values():
        assert not entry.reason
        # Drawn clips begin with up to half a second of room noise; it is measured, and the windows start behind it.
        assert 0.03 < entry.info["leading_silence_s"] < 0.6
        assert entry.starts_s == (pytest.approx(entry.info["leading_silence_s"]),)
        found = read_rows(entry.path, SPECTROGRAMS, [entry.first_row])
        assert found["spectrogram"].shape == (1, 80, 400)
        assert found["spectrogram"].std() > 1
        # The sound beside it is the same, but for its rounding to 16 bits.
        assert found["waveform"].shape == (1, 64000)
        again = compute_spectrogram(from_pcm(found["waveform"]), params.spectrograms)
        assert np.abs(again - found["spectrogram"]).mean() < 0.02


def pixels_of(run: Run, rows: list[int]) -> list[dict[str, torch.Tensor]]:
    """The features of some windows, computed anew from the stored pixels without the cache."""
    workspace, params = run
    sources = window_sources(workspace, params)
    found = []
    for row in rows:
        source, features = sources[row], {}
        crops = read_rows(source.faces[0], FACES, [source.faces[1]])["crops"][0]
        sound = read_rows(source.spectrogram[0], SPECTROGRAMS, [source.spectrogram[1]])["spectrogram"][0]
        for modality, pixels in zip(MODALITIES, (crops, sound), strict=True):
            for chosen in getattr(params.features, modality):
                backbone = load_backbone(modality, chosen, "cpu")
                maps = backbone(torch.from_numpy(pixels)[None], length=params.features.length)
                features |= {name: values[0] for name, values in maps.items()}
        found.append(features)
    return found


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 1e-2)])
def test_cached_is_uncached(small_run: Run, tmp_path: Path, dtype: str, tolerance: float) -> None:
    """The same network gives the same logits from the cache as from the window's pixels."""
    workspace, params = small_run
    params = params.model_copy(update={"features": params.features.model_copy(update={"dtype": dtype})})
    if dtype == "float32":
        scratch = Workspace(tmp_path)
        for part in ("manifest", "windows", "spectrograms", "faces"):
            shutil.copytree(workspace.root / part, scratch.root / part)
        build_features(scratch, params)
        workspace = scratch
    cache = FeatureCache.open(workspace.features)
    rows = [0, 7, 15, 23]
    uncached = pixels_of((workspace, params), rows)
    labels = [i % 2 for i in range(24)]
    split = ["train"] * 16 + ["val"] * 8
    config = nas.RetrainConfig(channels=16, epochs=3)
    searched = nas.search(cache.load(), labels, split, nas.SearchConfig(channels=16, epochs=2, warmup_epochs=1))
    network = nas.retrain(cache.load(), labels, split, searched[0].genotype, config)[0].network
    with torch.no_grad():
        from_cache = network({name: x[rows].float() for name, x in cache.load().items()})
        from_pixels = network({name: torch.stack([f[name] for f in uncached]) for name in uncached[0]})
    scale = from_pixels.abs().max()
    assert scale > 0.05
    assert ((from_cache - from_pixels).abs().max() / scale).item() < tolerance


def test_stages_skip_what_is_done_and_new_clips_cost_only_themselves(
    small_run: Run, synth_root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """20 of the 24 clips first, then all: four are computed, and the result is that of a single run."""
    root = tmp_path / "data"
    root.mkdir()
    shutil.copytree(synth_root / "clips", root / "clips")
    lines = (synth_root / "manifest.csv").read_text().splitlines()
    workspace, params = Workspace(tmp_path / "work"), small_params(root)
    (root / "manifest.csv").write_text("\n".join(lines[:21]) + "\n")
    run_to_features(workspace, params)
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")
    capfd.readouterr()
    run_to_features(workspace, params)
    said = capfd.readouterr().err
    assert "spectrograms: 24 clips: 20 already done, 4 computed" in said
    assert "faces: 24 clips: 20 already done, 4 computed" in said
    assert "20 already done, 4 computed (of 4 clips)" in said.replace("\n", " ")
    assert_same_cache(workspace, small_run[0])
    run_to_features(workspace, params)
    said = capfd.readouterr().err
    assert said.count("24 already done, 0 computed") == 3


def test_a_damaged_shard_is_made_again(small_run: Run, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "work")
    shutil.copytree(small_run[0].root, workspace.root)
    victim = next(workspace.faces.glob("*.h5"))
    victim.write_bytes(victim.read_bytes()[:5000])
    shutil.rmtree(workspace.features)
    build_faces(workspace, small_run[1])
    build_features(workspace, small_run[1])
    assert_same_cache(workspace, small_run[0])


def kill_when(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    """SIGKILLs the process and its children as soon as `ready`, or fails when it ends before."""
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, "the stage ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("stage", ["faces", "features"])
def test_a_killed_stage_is_finished_by_the_next_run(
    small_run: Run, tmp_path: Path, stage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """`make kill` does the same on the whole built-in data set, three times each stage."""
    workspace, params = Workspace(tmp_path / "work"), small_run[1]
    for part in ("manifest", "windows", "spectrograms"):
        shutil.copytree(small_run[0].root / part, workspace.root / part)
    if stage == "features":
        shutil.copytree(small_run[0].faces, workspace.faces)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params.model_dump(mode="json")))
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", stage, "--workers", "1"]
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
    done = {
        "faces": lambda: len(list(workspace.faces.glob("*.h5"))) >= 1,
        "features": lambda: len(list(workspace.root.glob("features.zarr.staging/*/*/*.npz"))) >= 2,
    }
    kill_when(process, done[stage])
    capfd.readouterr()
    build_faces(workspace, params)
    build_features(workspace, params)
    said = capfd.readouterr().err
    assert ("24 already done" not in said) if stage == "faces" else ("24 clips: 24 already done" in said)
    resumed = next(line for line in said.splitlines() if line.startswith(f"{stage}:"))
    already = int(resumed.split(" already done")[0].split()[-1])
    assert 8 <= already < 24
    assert_same_cache(workspace, small_run[0])
    assert not list(workspace.root.rglob("*.tmp"))
    assert not list(workspace.root.rglob("*.npz"))


def test_every_kind_of_unusable_clip_is_quarantined_with_a_reason(synth_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(synth_root, root)
    good = sorted((root / "clips").glob("*.mp4"))
    quiet = [media.ffmpeg_exe(), "-v", "error", "-y"]
    subprocess.run([*quiet, "-i", good[0], "-an", "-c", "copy", root / "mute.mp4"], check=True)
    picture = ["-f", "lavfi", "-i", "testsrc=s=128x128:d=4:r=25"]
    subprocess.run([*quiet, *picture, "-f", "lavfi", "-i", "sine=d=4", root / "noface.mp4"], check=True)
    subprocess.run([*quiet, *picture, "-f", "lavfi", "-i", "anullsrc=d=4", "-t", "4", root / "silent.mp4"], check=True)
    (root / "cut.mp4").write_bytes(good[1].read_bytes()[:20000])
    (root / "text.mp4").write_text("hello")
    (root / "empty.mp4").touch()
    (root / "folder.mp4").mkdir()
    bad = ["mute", "noface", "silent", "cut", "text", "empty", "folder", "missing"]
    with (root / "manifest.csv").open("a") as file:
        for i, name in enumerate(bad):
            file.write(f"{name}.mp4,x,bad{i},,,0,0,0,RVRA,real\n")
    workspace = Workspace(tmp_path / "work")
    run_to_features(workspace, small_params(root))
    reasons = {
        row.path: row.reason
        for stage in ("manifest", "spectrograms", "faces")
        for row in read_quarantine(workspace.quarantine(stage))
    }
    assert sorted(reasons) == sorted(f"{name}.mp4" for name in bad)
    for name, word in {
        "mute": "no sound track",
        "noface": "no face found in any of 9 pictures",
        "silent": "silent throughout",
        "cut": "no index",
        "text": "not a media file",
        "empty": "0 bytes",
        "folder": "a directory",
        "missing": "does not exist",
    }.items():
        assert word in reasons[f"{name}.mp4"]
    assert len(FeatureCache.open(workspace.features).index) == 24
    # The same clip counts where the picture alone will do.
    params = small_params(root, windows={"missing_modality": "visual_only"})
    build_manifest(workspace, params)
    build_spectrograms(workspace, params)
    assert {row.path for row in read_quarantine(workspace.quarantine("spectrograms"))} == {"cut.mp4", "text.mp4"}


def test_pretrained_backbones_side_by_side_with_others(small_run: Run, synth_root: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for part in ("manifest", "windows", "spectrograms", "faces"):
        (tmp_path / part).symlink_to(small_run[0].root / part)
    start = {"name": "test_efficientnet", "weights": "seed:0"}
    entries = run_pretrain(workspace, small_params(synth_root, pretrain={"visual": start, "audio": start, "epochs": 1}))
    backbones = {
        entry.modality: [
            {"name": entry.name, "weights": f"file:{workspace.pretrain / entry.weights}"},
            {"name": "test_resnet", "weights": "seed:0", "layers": 2},
        ]
        for entry in entries
    }
    build_features(workspace, small_params(synth_root, features=backbones))
    cache = FeatureCache.open(workspace.features)
    found = Counter(name.partition(".")[0] for name in cache.load())
    assert found == {f"{m}/{net}": n for m in MODALITIES for net, n in (("test_efficientnet", 4), ("test_resnet", 2))}
    assert all(x.isfinite().all() for x in cache.load().values())


def test_real_clips_go_all_the_way_to_features(realset: Path, tmp_path: Path) -> None:
    """Six real files in four containers, one of them without sound, become features or are quarantined by name."""
    root = tmp_path / "data"
    (root / "clips").mkdir(parents=True)
    names = ["l2sunit-0180.webm", "grid-0329.mpg", "sadtalker-0380.mp4", "lrq-0258.mp4", "l2sunit-0085.webm"]
    lines = (realset / "manifest.csv").read_text().splitlines()
    chosen = [line for line in lines[1:] if any(f"clips/{name}," in line for name in names)]
    assert len(chosen) == len(names)
    for name in names:
        shutil.copy(realset / "clips" / name, root / "clips" / name)
    (root / "manifest.csv").write_text("\n".join([lines[0], *chosen]) + "\n")
    workspace = Workspace(tmp_path / "work")
    run_to_features(workspace, small_params(root))
    cache = FeatureCache.open(workspace.features)
    assert set(cache.index["path"]) == {f"clips/{name}" for name in names if name != "lrq-0258.mp4"}
    assert all(torch.isfinite(x).all() for x in cache.load().values())
    quarantined = read_quarantine(workspace.quarantine("spectrograms"))
    assert [(row.path, "no sound track" in row.reason) for row in quarantined] == [("clips/lrq-0258.mp4", True)]
