"""What names a cache's content: all that its features are made of, and nothing of how they came to lie there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from cache_schemas.features import FeatureCache, FeatureCacheError
from cache_schemas.features.garbage import collect_garbage
from cache_schemas.features.upkeep import merge
from cache_schemas.manifest import Quarantined, write_quarantine
from pipeline.features.stage import build_features
from pipeline.params import BackboneParams, Params, WindowParams
from pipeline.runs.cache import cache_identity, open_cache
from pipeline.workspace import Workspace
from tests.cache_schemas.features.small_cache import build, names
from tests.pipeline.counting import LOG
from tests.pipeline.made_up_media import clip_contents, made_up_params, run_before_features, write_clips
from tests.pipeline.run_fixture import make_index, make_workspace

CLIPS = clip_contents([f"clip{i}" for i in range(6)])
SMALL = {"name": "tests.pipeline.counting:small", "weights": "seed:0"}
SOUND = {"sample_rate_hz": 8000, "n_fft": 256, "n_mels": 64}
BOTH = {"visual": [SMALL], "audio": [SMALL], "length": 4}


class Made:
    """One workspace, in which caches are made one after the other."""

    def __init__(self, folder: Path) -> None:
        self.root, self.workspace = folder / "data", Workspace(folder / "work")

    def identity(self, clips: dict[str, str] = CLIPS, *, label: str = "real", **changes: object) -> str:
        """That of the cache of some clips, made with made_up_params but for the changes. label: of the first voice."""
        shutil.rmtree(self.root, ignore_errors=True)
        write_clips(self.root, clips)
        table = self.root / "manifest.csv"
        table.write_text(table.read_text().replace("real,real", f"real,{label}", 1))
        params = made_up_params(self.root, **changes)
        run_before_features(self.workspace, params)
        return cache_identity(build_features(self.workspace, params))


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.setenv(LOG, str(tmp_path / "counts"))
    return Made(tmp_path)


def identity_of(path: Path) -> str:
    return cache_identity(FeatureCache.open(path))


@pytest.mark.parametrize(
    "change",
    [
        {"spectrograms": SOUND | {"n_mels": 80}},
        {"faces": {"frames": 2, "size_px": 48}},
        {"features": BOTH | {"views": 3}},
        {"features": BOTH | {"length": 2}},
        {"features": BOTH | {"dtype": "float32"}},
        {"features": BOTH | {"audio": [SMALL | {"weights": "seed:1"}]}},
        {"split": {"val": 0.4, "test": 0.4}},
        {"clips": clip_contents(["clip0", "clip1", "clip2", "clip3", "clip4"])},
        {"label": "fake"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_content_is_another_identity_and_the_first_one_comes_back(
    made: Made, change: dict[str, object]
) -> None:
    first = made.identity()
    assert made.identity(**change) != first  # type: ignore[arg-type]
    assert made.identity() == first


def test_how_rows_came_to_lie_where_they_lie_is_no_content(made: Made, tmp_path: Path) -> None:
    first = made.identity()
    other = Made(tmp_path / "other")
    other.identity(dict(list(CLIPS.items())[3:]), features=BOTH | {"views": 2})
    other.identity(clip_contents(["clip4", "elsewhere", "clip1"]))
    assert other.identity() == first
    collect_garbage(other.workspace.features, older_than_seconds=0)
    assert identity_of(other.workspace.features) == first


def test_two_halves_merged_are_the_whole(tmp_path: Path) -> None:
    whole, first, second = tmp_path / "whole.zarr", tmp_path / "first.zarr", tmp_path / "second.zarr"
    build(whole, names(21))
    build(first, names(13, 8))
    build(second, names(12))
    assert identity_of(first) != identity_of(whole)
    merge(first, second)
    assert identity_of(first) == identity_of(whole)


def test_parameters_that_change_no_value_do_not_block_a_cache(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, make_index(subjects=5, windows=1), seeds=(0,))
    for changes in ({"windows": {"missing_modality": "visual_only"}}, {"faces": {"codec": "webp"}}):
        assert len(open_cache(workspace, Params.model_validate(changes))) == 20
    with pytest.raises(FeatureCacheError, match=r"faces\.codec = 'zstd', the parameters say"):
        open_cache(workspace, Params.model_validate({"faces": {"codec": "jpeg"}}))


def test_missing_modality_blocks_where_there_are_clips_without_sound(tmp_path: Path) -> None:
    said = "missing_modality = 'quarantine', the parameters say 'visual_only': run `bmnas features`"
    visual_only = Params.model_validate({"windows": {"missing_modality": "visual_only"}})
    left_out = make_workspace(tmp_path / "left out", make_index(subjects=5, windows=1), seeds=(0,))
    reason = "no sound track (missing_modality: quarantine)"
    write_quarantine(left_out.quarantine("spectrograms"), [Quarantined("c", "c.mp4", "spectrograms", reason)])
    mute = make_workspace(tmp_path / "mute", make_index(subjects=5, categories=("RVRA", "FV-")), seeds=(0,))
    for workspace in (left_out, mute):
        open_cache(workspace, Params())
        with pytest.raises(FeatureCacheError, match=said):
            open_cache(workspace, visual_only)


def test_a_parameter_from_after_the_cache_was_made_does_not_block_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache does not name it, and at this value it changes nothing."""
    workspace = make_workspace(tmp_path, make_index(subjects=5, windows=1), seeds=(0,))
    attributes = FeatureCache.attributes.fget  # type: ignore[attr-defined]

    def older(cache: FeatureCache) -> dict[str, Any]:
        found: dict[str, Any] = attributes(cache)
        del found["params"]["windows"]["silence_db"], found["params"]["features"]["audio"][0]["precision"]
        return found

    monkeypatch.setattr(FeatureCache, "attributes", property(older))
    with pytest.raises(FeatureCacheError, match="silence_db = None, the parameters say"):
        open_cache(workspace, Params())
    monkeypatch.setattr(WindowParams, "ALIKE", WindowParams.ALIKE | {"silence_db": {30.0: None}})
    monkeypatch.setattr(BackboneParams, "ALIKE", {"precision": {"full": None}})
    open_cache(workspace, Params())
