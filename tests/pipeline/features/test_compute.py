"""Pieces of the cache on a worker: what is read for them, and several at once, as a GPU has them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cache_schemas.features import FeatureCache, VariantAttributes
from cache_schemas.features.layout import Geometry
from cache_schemas.features.writer import FeatureCacheWriter
from cache_schemas.shards import ShardError
from pipeline.features import compute
from pipeline.features.stage import build_features
from pipeline.features.windows import stored_inputs, stored_windows, window_inputs, window_sources
from pipeline.params import ComputeParams, Params
from pipeline.workspace import Workspace
from tests.pipeline.counting import LOG
from tests.pipeline.made_up_media import clip_contents, made_up_params, run_before_features, write_clips

CLIPS, VIEWS = 20, 2


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Workspace, Params]:
    """Windows of twenty clips in shards of eight."""
    backbone = {"name": "tests.pipeline.counting:small", "weights": "seed:0"}
    features = {"visual": [backbone], "audio": [backbone], "length": 4, "views": VIEWS}
    workspace, params = Workspace(tmp_path / "work"), made_up_params(tmp_path / "data", features=features)
    write_clips(tmp_path / "data", clip_contents([f"clip{i:02d}" for i in range(CLIPS)]))
    run_before_features(workspace, params)
    monkeypatch.setenv(LOG, str(tmp_path / "counts"))
    return workspace, params


@pytest.mark.parametrize(("modality", "takes"), [("visual", "crops"), ("audio", "spectrogram")])
def test_a_shard_is_opened_once_for_all_that_is_read_of_it(
    made: tuple[Workspace, Params], monkeypatch: pytest.MonkeyPatch, modality: Any, takes: Any
) -> None:
    workspace, params = made
    sources = window_sources(workspace, params)
    views = range(VIEWS)
    one_by_one = [x for s in sources for x in window_inputs(s, takes, views, params.spectrograms)]
    opened, original = list[Path](), h5py.File

    def count(path: Path, *given: Any, **more: Any) -> h5py.File:
        opened.append(path)
        return original(path, *given, **more)

    monkeypatch.setattr(h5py, "File", count)
    rows = [(window, view) for window in stored_windows(sources, modality) for view in views]
    together = list(stored_inputs(rows, takes, params.spectrograms))
    assert len(together) == len(sources) * VIEWS
    assert all(np.array_equal(a, b) for a, b in zip(together, one_by_one, strict=True))
    assert len(opened) == len({window.shard for window, _ in rows}) < len(sources)


def cached(workspace: Workspace) -> dict[str, Any]:
    """All that the cache holds."""
    cache = FeatureCache.open(workspace.features)
    return {layer: cache.load(layers=[layer])[layer] for layer in cache.layers}


def test_pieces_computed_at_once_are_those_computed_one_by_one(
    made: tuple[Workspace, Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, params = made
    build_features(workspace, params)
    expected, other = cached(workspace), Workspace(workspace.root.with_name("other"))
    other.root.mkdir()
    for part in ("manifest", "windows", "spectrograms", "faces"):
        (other.root / part).symlink_to(workspace.root / part)
    threads, original = set[threading.Thread](), compute.run_backbone

    def seen(*given: Any, **more: Any) -> Any:
        threads.add(threading.current_thread())
        return original(*given, **more)

    monkeypatch.setattr(compute, "run_backbone", seen)
    monkeypatch.setitem(compute.PIECES_AT_ONCE, "cpu", 3)
    build_features(other, params)
    assert threads
    assert threading.main_thread() not in threads
    found = cached(other)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[layer], x) for layer, x in expected.items())


def test_a_gpu_has_one_process(made: tuple[Workspace, Params], monkeypatch: pytest.MonkeyPatch) -> None:
    """However many workers may run: with one GPU it is the command's own, where this test looks on."""
    workspace, params = made
    computed, original = list[int](), compute.run_backbone
    monkeypatch.setattr(compute, "run_backbone", lambda *given, **more: computed.append(1) or original(*given, **more))
    monkeypatch.setattr("pipeline.compute.machine.gpus", lambda _: ("0",))
    build_features(workspace, params.model_copy(update={"compute": ComputeParams(workers=2, device="cpu")}))
    assert computed


def test_a_shard_that_cannot_be_read_ends_the_stage(
    made: tuple[Workspace, Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, params = made
    monkeypatch.setitem(compute.PIECES_AT_ONCE, "cpu", 3)
    shard = max(window.shard for window in stored_windows(window_sources(workspace, params), "visual"))
    with h5py.File(shard, "r+") as file:
        file["crops"][2] = file["crops"][2][:40]
    with pytest.raises(ShardError, match=shard.name):
        build_features(workspace, params)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPool")]  # zarr's own stay


def test_shards_of_the_cache_are_packed_while_others_are_computed(
    made: tuple[Workspace, Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packing takes a thread of its own; here it waits until more has been computed."""
    workspace, params = made
    monkeypatch.setattr(FeatureCacheWriter.__init__, "__defaults__", (Geometry(8, 8),))
    monkeypatch.setitem(compute.TASK_PIECES, "cpu", 1)
    going_on, originals, waited = threading.Event(), (FeatureCacheWriter.pack, compute.stage_piece), list[bool]()

    def pack(writer: FeatureCacheWriter, variant: VariantAttributes, keys: Sequence[str], *, final: bool) -> None:
        if not final and not waited:
            going_on.clear()
            waited.append(going_on.wait(timeout=10))
        originals[0](writer, variant, keys, final=final)

    def stage_piece(*given: Any) -> Any:
        found = originals[1](*given)
        going_on.set()
        return found

    monkeypatch.setattr(FeatureCacheWriter, "pack", pack)
    monkeypatch.setattr(compute, "stage_piece", stage_piece)
    build_features(workspace, params)
    assert waited == [True]
    assert len(FeatureCache.open(workspace.features)) == CLIPS
