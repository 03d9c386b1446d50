"""Drawn people: one, two side by side, two after each other; and a trained and evaluated run of small networks."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

import nas
from pipeline import media
from pipeline.detector.bundle import make_bundle
from pipeline.detector.opened import open_bundle
from pipeline.features.shown import shown_and_heard
from pipeline.params import Params
from pipeline.runs.evaluate import evaluate
from pipeline.runs.retrain import run_retrain
from pipeline.runs.search import run_search
from pipeline.synth.clip import render_clip
from pipeline.synth.plan import ClipSpec
from pipeline.workspace import Workspace
from tests.cache_schemas.small_bundle import members_of
from tests.pipeline.detector.finished_run import finished

Run = tuple[Workspace, Params]


@dataclass(frozen=True)
class TwoPeople:
    """Clips of 3.6 s, but for `cut`, which is twice as long."""

    real: Path
    fake: Path
    """Another person, with another's face"""
    pair: Path
    """Real on the left, fake on the right, with the sound of the real one"""
    cut: Path
    """The real one, and then the fake one"""


@pytest.fixture(scope="session")
def two_people(tmp_path_factory: pytest.TempPathFactory) -> TwoPeople:
    folder = tmp_path_factory.mktemp("people")
    specs = ClipSpec(0, 0.3, 0, 0, "RVRA", "", ""), ClipSpec(0, 0.3, 1, 0, "FVRA", "face-swap", "")
    clips = [folder / render_clip(spec, folder) for spec in specs]
    made = TwoPeople(*clips, folder / "pair.mkv", folder / "cut.mkv")
    for target, graph in {
        made.pair: "[0:v][1:v]hstack[v];[0:a]anull[a]",
        made.cut: "[0:v][0:a][1:v][1:a]concat=n=2:v=1:a=1[v][a]",
    }.items():
        argv = ["-i", clips[0], "-i", clips[1], "-filter_complex", graph, "-map", "[v]", "-map", "[a]", "-shortest"]
        coded = ["-c:v", "libx264", "-preset", "ultrafast", "-c:a", "flac", target]
        subprocess.run([media.ffmpeg_exe(), "-v", "error", *argv, *coded], check=True)
    return made


@pytest.fixture(scope="session")
def trained(small_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with small networks to the end of retrain."""
    workspace = Workspace(tmp_path_factory.mktemp("trained") / "work")
    shutil.copytree(small_run[0].root, workspace.root)
    params = small_run[1].model_copy(
        update={
            "seeds": (0, 1),
            "search": nas.SearchConfig(channels=16, epochs=3, warmup_epochs=1),
            "retrain": nas.RetrainConfig(channels=16, epochs=8),
        }
    )
    run_search(workspace, params)
    run_retrain(workspace, params)
    return workspace, params


@pytest.fixture(scope="session")
def evaluated(trained: Run) -> Run:
    """The same with its evidence kept."""
    metrics = evaluate(*trained, device="cpu", shown=shown_and_heard(*trained))
    assert metrics["counts"]["clips"] > 0
    # Drawn clips hold no cheat. Whether random weights tell drawn fakes apart is a result, and no fault of them.
    found = [each["says"] for each in metrics["audit"] if each["found"] and each["check"] != "random weights score"]
    assert not found
    return trained


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A finished run, of people with names, on a machine with folders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.statistics.values.DRAWS", 50)
        return finished(tmp_path_factory.mktemp("run") / "secret folder")


@pytest.fixture(scope="session")
def made(run: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "detector.bmnas"
    make_bundle(run, path)
    return path


@pytest.fixture(scope="session")
def members(made: Path) -> dict[str, bytes]:
    with open_bundle(made) as workspace:
        return members_of(workspace.root)


def part_of(workspace: Workspace, folder: Path) -> Workspace:
    """A copy of what a detector is loaded from, to be changed."""
    part = Workspace(folder / "work")
    for name in ("retrain", "evaluate"):
        shutil.copytree(workspace.root / name, part.root / name)
    return part
