"""`bmnas cache verify --sample`: right rows pass, wrong rows and other clips are found, all the way from the media."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from cache_schemas.features import FeatureCache, FeatureCacheWriter, stage_piece
from cache_schemas.features.layout import keys_text
from cache_schemas.features.upkeep import verify
from cache_schemas.manifest import read_manifest
from pipeline.faces.stage import build_faces
from pipeline.features.recompute import verify_sample
from pipeline.features.stage import build_features, describe
from pipeline.features.windows import window_sources
from pipeline.manifest.build import build_manifest
from pipeline.params import Params, parse_params
from pipeline.shards.stage import StageError
from pipeline.sound.stage import build_spectrograms
from pipeline.synth import generate
from pipeline.workspace import Workspace
from tests.pipeline.conftest import small_params
from tests.pipeline.tiny import write_wav

Run = tuple[Workspace, Params]
NET = {"name": "test_efficientnet", "weights": "seed:0"}
NETS = {"visual": [NET], "audio": [NET]}


@pytest.fixture(scope="module")
def media_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Six drawn clips up to their crops, the last one dubbed, and parameters of two views by small networks. Read it
    only.
    """
    root, workspace = tmp_path_factory.mktemp("clips"), Workspace(tmp_path_factory.mktemp("work"))
    table = generate(root, identities=6, clips_per_identity=1, seed=0)
    header, *rows = table.read_text().splitlines()
    write_wav(root / "voice 100%.wav", hz=500, seconds=8)
    dubbed = [f"{header},audio_path", *(f"{row}," for row in rows[:-1]), f"{rows[-1]},voice 100%.wav"]
    table.write_text("\n".join(dubbed))
    params = small_params(root, features={**NETS, "views": 2})
    build_manifest(workspace, params)
    build_spectrograms(workspace, params)
    build_faces(workspace, params)
    return workspace, params


@pytest.fixture
def small(media_run: Run, tmp_path: Path) -> Run:
    """A workspace of its own over the same media."""
    workspace = Workspace(tmp_path / "work")
    link_inputs(media_run[0], workspace)
    return workspace, media_run[1]


def link_inputs(source: Workspace, workspace: Workspace) -> None:
    workspace.root.mkdir()
    for part in ("manifest", "windows", "spectrograms", "faces"):
        (workspace.root / part).symlink_to(source.root / part)


def test_rows_are_what_their_clips_give(small: Run) -> None:
    workspace, params = small
    build_features(workspace, params)
    # Only where the clips lie is taken from the parameters at hand.
    here = Params(data=params.data, compute=params.compute)
    clips = read_manifest(workspace.manifest)
    found = verify_sample(workspace.features, here, 5, clips=clips, seed=1)
    assert found.rows == 5
    assert not found.problems
    assert any(clip.audio_path for clip in clips)
    assert 0 < found.largest_error < 1e-3
    again = verify_sample(workspace.features, here, 5, clips=clips, seed=1)
    assert again.largest_error == found.largest_error  # the same rows


def test_a_row_of_another_window_is_found(small: Run) -> None:
    """Every byte is in order, and still two clips have each other's features."""
    workspace, params = small
    writer = FeatureCacheWriter(workspace.features)
    for column in describe(params, window_sources(workspace, params)):
        writer.add_variant(column.variant)
        if column.variant.modality == "audio":
            other = list(column.keys)
            other[0], other[2] = other[2], other[0]
            _stage_as(workspace, params, column.variant, other, writer)
    build_features(workspace, params)
    assert not verify(workspace.features).problems
    found = verify_sample(workspace.features, params, 100, clips=read_manifest(workspace.manifest))
    assert found.rows == 12
    assert len(found.problems) == 2
    assert all("window from" in p and "audio/test_efficientnet" in p and "limit 0.02" in p for p in found.problems)
    assert {shard for _, shard in found.damaged} == {0}


def test_a_pseudo_fake_of_another_window_is_found(small: Run) -> None:
    """Those of fakes are none of their own, and are not counted."""
    workspace, params = small
    params = parse_params(params.model_dump() | {"features": {**NETS, "pseudo": 1, "random_control": False}}, source="")
    cache, writer = build_features(workspace, params), FeatureCacheWriter(workspace.features)
    of, features = cache.load_pseudo()
    assert 1 < len(of) < len(cache)
    sample = verify_sample(workspace.features, params, 100, clips=read_manifest(workspace.manifest))
    assert (sample.rows, sample.problems) == (len(cache) + len(of), [])
    assert verify_sample(workspace.features, params, 3, clips=read_manifest(workspace.manifest)).rows == 3
    variant = cache.variants[1]
    keys = keys_text(cache.row_keys(variant)[of, 1])
    rows = {layer: features[layer].numpy()[::-1] for layer in variant.layers}
    with writer.lock():
        writer.append(variant, keys, lambda layer, start, stop: rows[layer][start:stop])
    build_features(workspace, params)
    assert not verify(workspace.features).problems
    found = verify_sample(workspace.features, params, 100, clips=read_manifest(workspace.manifest))
    assert len(found.problems) == len(of) // 2 * 2
    assert all("view -1: audio/" in problem for problem in found.problems)
    assert {(of.path, shard) for of, shard in found.damaged} == {(variant.path, 1)}


def test_a_row_of_another_window_with_random_weights_is_found(small: Run) -> None:
    workspace, params = small
    nets = {modality: [NET | {"weights": "seed:1"}] for modality in ("visual", "audio")}
    params = parse_params(params.model_dump() | {"features": {**nets, "pseudo": 0}}, source="test")
    control, writer = build_features(workspace, params).control(), FeatureCacheWriter(workspace.features)
    assert control
    variant, loaded = control.variants[0], control.load()
    rows = {layer: loaded[layer].numpy()[::-1] for layer in variant.layers}
    with writer.lock():
        keys = keys_text(control.row_keys(variant))
        writer.append(variant, keys, lambda layer, start, stop: rows[layer][start:stop])
    assert not verify(workspace.features).problems
    build_features(workspace, params)
    found = verify_sample(workspace.features, params, 3, clips=read_manifest(workspace.manifest))
    assert found.rows == 3
    assert len(found.problems) == 3
    assert {(of.path, shard) for of, shard in found.damaged} == {(variant.path, 1)}


def _stage_as(workspace: Workspace, params: Params, variant: Any, names: list[str], writer: FeatureCacheWriter) -> None:
    """Stages true rows under the given names."""
    truth = Workspace(workspace.root / "truth")
    link_inputs(workspace, truth)
    loaded = build_features(truth, params).load(views=True)
    rows = {layer: loaded[layer].transpose(0, 1).flatten(0, 1).numpy() for layer in variant.layers}
    stage_piece(workspace.features, variant, names, rows)


def test_clips_that_are_gone_or_others_are_named(small: Run, tmp_path: Path) -> None:
    workspace, params = small
    build_features(workspace, params)
    index = FeatureCache.open(workspace.features).index
    root = tmp_path / "data"
    shutil.copytree(params.data.root, root)
    gone, changed = (root / path for path in index["path"][:2])
    gone.unlink()
    shutil.copy(root / index["path"][2], changed)
    found = verify_sample(workspace.features, small_params(root), 12)
    assert found.rows == 6
    assert len(found.problems) == 3
    assert any(f"({index['path'][0]}) cannot be computed again: the file does not exist" in p for p in found.problems)
    # And the dubbed one: where its sound lies only the manifest tells, which is not given.
    assert sum("has another content than the clip that was cached" in p for p in found.problems) == 2


def test_other_weights_are_an_error(small: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, params = small
    build_features(workspace, params)
    monkeypatch.setattr("pipeline.backbones.base.Backbone.identity", lambda _: {"weights_sha256": "0"})
    with pytest.raises(StageError, match=r"backbone test_efficientnet \(visual\) is not the one that made it"):
        verify_sample(workspace.features, params, 1)
