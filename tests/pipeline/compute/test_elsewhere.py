"""Workers that share no folder with the command: all stages by way of a store, and what may go wrong there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest
import safetensors.torch
import timm
import torch
from distributed import Client

from cache_schemas.manifest import read_quarantine, write_manifest
from pipeline.faces.stage import build_faces
from pipeline.features.stage import build_features
from pipeline.manifest.build import build_manifest
from pipeline.params import DataParams, Params, parse_params
from pipeline.sound.stage import build_spectrograms
from pipeline.workspace import Workspace
from tests.pipeline.compute.clusters import Cluster, cluster, has_namespaces
from tests.pipeline.test_faults import clip_of
from tests.pipeline.test_pipeline import assert_same_cache
from tests.pipeline.tiny import TinyClips, write_wav
from tests.s3 import s3_server

pytestmark = [
    pytest.mark.skipif(not has_namespaces(), reason="needs mount namespaces (unshare), to hide folders from workers"),
    # Dask's own sockets, and those of S3's client, are closed by their event loops, some time after.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
STAGES = (build_manifest, build_spectrograms, build_faces, build_features)
N_CLIPS = 12


@pytest.fixture(scope="module")
def bucket() -> Iterator[Any]:
    with s3_server():
        files = fsspec.filesystem("s3", use_listings_cache=False)
        files.mkdir("bucket")
        yield files


@pytest.fixture(scope="module")
def machine(tiny: TinyClips, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that the command's machine has, and no worker sees: clips, some with their sound beside them; weights."""
    folder = tmp_path_factory.mktemp("machine")
    rows = ["path,audio_path,subject_id,video_label,audio_label"]
    for i in range(N_CLIPS):
        tiny.put(folder / "clips" / f"{i}.mp4", fake=i % 2 == 1)
        sound = f"{i}.wav" if i < 2 else ""
        rows.append(f"{i}.mp4,{sound},person {i},real,{'fake' if i % 2 else 'real'}")
    for i in range(2):
        write_wav(folder / "clips" / f"{i}.wav", hz=440 + i)
    (folder / "clips" / "manifest.csv").write_text("\n".join(rows) + "\n")
    torch.manual_seed(0)
    state = timm.create_model("test_efficientnet", in_chans=1).state_dict()
    safetensors.torch.save_file(state, folder / "weights.safetensors")
    return folder


def params_of(machine: Path, **compute: object) -> Params:
    return parse_params(
        {
            "data": {"root": str(machine / "clips"), "layout": "csv"},
            "split": {"val": 0.3, "test": 0.3},
            "windows": {"window_s": 1.0, "max_per_clip": 1},
            "faces": {"frames": 2, "size_px": 32},
            "features": {
                "visual": [{"name": "test_resnet", "weights": "seed:0", "layers": 1}],
                "audio": [{"name": "test_efficientnet", "weights": f"file:{machine}/weights.safetensors", "layers": 1}],
                "length": 4,
                "random_control": False,
            },
            "compute": compute,
        },
        source="test",
    )


@pytest.fixture(scope="module")
def undisturbed(machine: Path) -> Workspace:
    """All stages in one process."""
    workspace = Workspace(machine / "alone")
    for stage in STAGES:
        stage(workspace, params_of(machine, workers=1))
    return workspace


def shards(workspace: Workspace) -> dict[str, bytes]:
    folders = (workspace.spectrograms, workspace.faces)
    return {f"{folder.name}/{path.name}": path.read_bytes() for folder in folders for path in folder.glob("*.h5")}


@contextmanager
def elsewhere(machine: Path, *, workers: int = 2, size: str = "1g") -> Iterator[Cluster]:
    """A scheduler, and workers that see nothing of the machine's folder."""
    with cluster(machine.with_name(f"{machine.name} cluster"), workers=0) as found:
        for _ in range(workers):
            found.start_worker_elsewhere(machine, size)
        yield found


def test_workers_without_a_common_folder_give_the_same_bytes(
    bucket: Any, machine: Path, undisturbed: Workspace, tmp_path: Path
) -> None:
    workspace = Workspace(machine / "apart")
    with elsewhere(machine) as found:
        params = params_of(machine, scheduler=found.address, store="s3://bucket/one")
        for stage in STAGES:
            stage(workspace, params)
        with Client(found.address) as client:
            assert len(client.nthreads()) == 2
            seen = client.run(os.listdir, str(machine))
            held = client.run(lambda folder: [path.name for path in Path(folder).rglob("*.mp4")], str(machine))
    assert all(names == ["scratch"] for names in seen.values())
    assert all(names for names in held.values())  # both have worked, in scratch folders of their own
    assert shards(workspace) == shards(undisturbed)
    assert_same_cache(workspace, undisturbed)
    assert len(read_quarantine(workspace.quarantine("faces"))) == 0
    assert not bucket.find("bucket/one/made")
    names = {path.rpartition("/")[2] for path in bucket.find("bucket/one/needed")}
    assert len(names) == N_CLIPS + 2 + 1 + len(shards(workspace))


def test_clips_that_cannot_be_sent_or_held_are_named_and_tried_again(bucket: Any, machine: Path) -> None:
    """A link out of the data root; a clip larger than a worker's disk, and one that leaves no room there for its shard.

    What a task reads no more makes room.
    """
    clips = machine / "odd"
    clips.mkdir()
    content = (machine / "clips" / "2.mp4").read_bytes()
    for i, size in ((0, 5_000_000), (1, 2_500_000), (2, 2_500_000), (4, (4 << 20) - 49_152)):
        padding = size - len(content) - 8
        (clips / f"{i}.mp4").write_bytes(content + (padding + 8).to_bytes(4, "big") + b"free" + os.urandom(padding))
    (clips / "3.mp4").symlink_to(machine / "weights.safetensors")
    rows = [clip_of(clips, path, i) for i, path in enumerate(sorted(clips.iterdir()))]
    workspace = Workspace(machine / "full")
    with elsewhere(machine, workers=1, size="4m") as found:
        params = params_of(machine, scheduler=found.address, store="s3://bucket/full")
        data = DataParams(root=str(clips), layout="csv")
        params = params.model_copy(update={"data": data, "max_failed_fraction": 1.0})
        for new in (1, 2):
            write_manifest(workspace.manifest, [rows[0], *rows[1 : new + 1], rows[3]])
            assert len(build_spectrograms(workspace, params)) == new
        large, link = (row.reason for row in read_quarantine(workspace.quarantine("spectrograms")))
        write_manifest(workspace.manifest, rows[4:])
        assert not build_spectrograms(workspace, params)
        (tight,) = (row.reason for row in read_quarantine(workspace.quarantine("spectrograms")))
    assert re.search(r"no room for \d+ bytes from .*--local-directory FOLDER.*tried again", large)
    assert re.search(r"no room for what it makes: .*--local-directory FOLDER.*tried again", tight)
    assert link == "the path leads outside the data root (tried again in the next run)"
    assert len(bucket.find("bucket/full/needed")) == 4
