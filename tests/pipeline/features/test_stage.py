"""The features stage: what is computed when, counted by the backbones themselves."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from cache_schemas.content import CacheContent
from cache_schemas.features import FeatureCache, FeatureCacheError, VariantAttributes, staged_piece
from cache_schemas.features.garbage import collect_garbage
from cache_schemas.features.upkeep import verify
from cache_schemas.files import digest
from cache_schemas.manifest import read_quarantine
from pipeline.backbones import Backbone, Modality, load_backbone
from pipeline.backbones.timm_family import create
from pipeline.faces.stage import face_key
from pipeline.features import compute
from pipeline.features.forward import PASS_WINDOWS, run_backbone
from pipeline.features.stage import build_features, describe, row_keys
from pipeline.features.windows import window_inputs, window_sources
from pipeline.params import BackboneParams, NetworkParams, Params
from pipeline.runs.evaluate import EvaluateError, evaluate
from pipeline.runs.retrain import run_retrain
from pipeline.runs.search import run_search
from pipeline.shards.stage import StageError
from pipeline.workspace import Workspace
from tests.pipeline.backbones.tiny_transformers import write
from tests.pipeline.counting import LOG, logged
from tests.pipeline.made_up_media import clip_contents, made_up_params, run_before_features, write_clips
from tests.pipeline.run_fixture import make_index, make_workspace
from tests.pipeline.test_pipeline import assert_same_cache

SIXTEEN = [f"clip{i:02d}" for i in range(16)]
EIGHT = [f"more{i}" for i in range(8)]
SMALL, OTHER, BURSTING = (
    {"name": f"tests.pipeline.counting:{name}", "weights": "seed:0"} for name in ("small", "other", "bursting")
)


class History:
    """One workspace through many runs; each run's counts, and its cache against one made from scratch."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.workspace, self.runs = folder, Workspace(folder / "work"), 0
        self._log, self._monkeypatch = folder / "counts", monkeypatch

    def run(self, contents: dict[str, str], **changes: object) -> dict[str, int]:
        """{modality, or modality and backbone where that is not `small`: windows computed} of a run."""
        root = self.folder / "data"
        shutil.rmtree(root, ignore_errors=True)
        write_clips(root, contents)
        params = made_up_params(root, **changes)
        run_before_features(self.workspace, params)
        self._log.unlink(missing_ok=True)
        self._monkeypatch.setenv(LOG, str(self._log))
        build_features(self.workspace, params)
        counts = Counter(f"{modality} {name.partition(':')[2]}" for modality, name, _ in logged(self._log))
        self._compare_with_a_new_cache(params)
        return {name.removesuffix(" small"): count for name, count in counts.items()}

    def _compare_with_a_new_cache(self, params: Params) -> None:
        self.runs += 1
        fresh = Workspace(self.folder / f"fresh{self.runs}")
        fresh.root.mkdir()
        for part in ("manifest", "windows", "spectrograms", "faces"):
            (fresh.root / part).symlink_to(self.workspace.root / part)
        build_features(fresh, params)
        assert_same_cache(self.workspace, fresh)


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> History:
    return History(tmp_path, monkeypatch)


def both(count: int) -> dict[str, int]:
    return {"visual": count, "audio": count}


def test_nothing_that_is_present_is_computed_again_whatever_the_order_of_events(history: History) -> None:
    sixteen, more = clip_contents(SIXTEEN), clip_contents(EIGHT)
    assert history.run(sixteen) == both(16)
    assert history.run(sixteen) == {}
    assert history.run(more | sixteen) == both(8)  # in front of the others
    assert history.run(sixteen) == {}
    assert history.run(sixteen | more) == {}
    second = {"visual": [SMALL, OTHER], "audio": [SMALL], "length": 4}
    assert history.run(sixteen, features=second) == {"visual other": 16}
    assert history.run(sixteen) == {}
    longer = {"window_s": 1.0, "max_per_clip": 1}
    assert history.run(sixteen, windows=longer) == both(16)
    assert history.run(sixteen) == {}
    moved = {name.replace("clip03", "elsewhere/moved"): content for name, content in sixteen.items()}
    assert history.run(moved) == {}
    assert history.run(sixteen | {"clip03.mp4": "something else"}) == both(1)
    assert not verify(history.workspace.features).problems
    assert collect_garbage(history.workspace.features, older_than_seconds=0) > 0
    assert history.run(sixteen | {"clip03.mp4": "something else"}) == {}


def test_a_view_more_costs_that_view_only(history: History) -> None:
    clips = clip_contents(SIXTEEN[:3])
    features = {"visual": [SMALL], "audio": [SMALL], "length": 4}
    assert history.run(clips) == both(3)
    assert history.run(clips, features=features | {"views": 3}) == both(6)
    assert history.run(clips, features=features | {"views": 2}) == {}


def test_views_there_and_back_leave_the_bytes_that_dvc_compares(history: History) -> None:
    clips, features, contents = clip_contents(SIXTEEN[:3]), {"visual": [SMALL], "audio": [SMALL], "length": 4}, []
    for views in (1, 2, 1):
        history.run(clips, features=features | {"views": views})
        contents.append(history.workspace.content.read_bytes())
        assert json.loads(contents[-1]) == CacheContent.of(FeatureCache.open(history.workspace.features)).model_dump()
    assert contents[0] == contents[2] != contents[1]
    assert not any(str(word).encode() in contents[0] for word in (history.folder, torch.__version__))


def layers_of(history: History) -> list[str]:
    return [layer.rpartition(".")[2] for layer in FeatureCache.open(history.workspace.features).layers]


def test_fewer_layers_of_a_backbone_cost_nothing(history: History) -> None:
    def kept(layers: object) -> dict[str, object]:
        net = {"name": "tests.pipeline.counting:tall", "weights": "seed:0", "layers": layers}
        return {"visual": [net], "audio": [net], "length": 4}

    clips, more = clip_contents(SIXTEEN[:3]), clip_contents(SIXTEEN[:4])
    tall = {"visual tall": 3, "audio tall": 3}
    assert history.run(clips, features=kept(2)) == tall
    assert history.run(clips, features=kept(1)) == {}
    assert layers_of(history) == ["2", "2"]
    assert history.run(more, features=kept(1)) == {"visual tall": 1, "audio tall": 1}  # with both layers, as the others
    assert history.run(more, features=kept(2)) == {}
    assert layers_of(history) == ["1", "2"] * 2
    assert history.run(clips, features=kept(3)) == tall
    assert history.run(clips, features=kept([0, 2])) == {}
    assert layers_of(history) == ["0", "2"] * 2


def test_rows_from_before_format_4_are_used(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their backbones say besides where their weights came from and which layers were kept."""
    clips = clip_contents(SIXTEEN[:3])
    params = made_up_params(history.folder / "data")
    with monkeypatch.context() as before:
        identity = Backbone.identity
        before.setattr(Backbone, "identity", lambda b: identity(b) | {"weights": "seed", "layers": list(b.layers)})
        assert history.run(clips) == both(3)
        (variant, _), sources = (
            FeatureCache.open(history.workspace.features).variants,
            window_sources(history.workspace, params),
        )
    assert history.run(clips) == {}
    assert history.run(clips, features={"visual": [SMALL], "audio": [SMALL], "length": 4, "views": 2}) == both(3)
    assert FeatureCache.open(history.workspace.features).variants[0] == variant
    old = digest(
        variant.path, sources[0].clip.clip_id, sources[0].start_s, [face_key(params), sources[0].plan], [0], digits=32
    )
    assert row_keys(variant, sources, params, [0])[0] == old


def test_weights_are_named_by_their_tensors_wherever_they_came_from(history: History, tmp_path: Path) -> None:
    safetensors.torch.save_file(create("visual", NetworkParams()).state_dict(), tmp_path / "w.safetensors")
    write_clips(history.folder / "data", clip_contents(SIXTEEN[:3]))
    run_before_features(history.workspace, made_up_params(history.folder / "data"))
    columns = []
    for weights in ("bundled", f"file:{tmp_path / 'w.safetensors'}", "seed:0"):
        params = made_up_params(history.folder / "data", features={"visual": [{"weights": weights}]})
        columns.append(describe(params, window_sources(history.workspace, params))[0])
    assert columns[0].keys == columns[1].keys != columns[2].keys
    assert columns[0].variant == columns[1].variant != columns[2].variant


def test_a_window_with_a_feature_that_is_not_finite_goes_to_quarantine(history: History) -> None:
    """By its name and the layer's; the stage finishes, and the cache holds the others."""
    clips = clip_contents(SIXTEEN[:6])
    features = {"visual": [SMALL], "audio": [BURSTING], "length": 4}
    history.run(clips, features=features)
    workspace = history.workspace
    (refused,) = read_quarantine(workspace.quarantine("features"))
    cache = FeatureCache.open(workspace.features)
    assert refused.clip_id not in set(cache.index["clip_id"])
    assert len(cache) == 5
    assert not verify(workspace.features).problems
    assert refused.stage == "features"
    assert re.search(
        r"^window from 0.1 s: audio/tests.*bursting\.1: a feature is not finite as float16", refused.reason
    )
    assert history.run(clips, features=features)["audio bursting"] == 1, "it is tried again"
    assert history.run(clips) == {"audio": 6}
    assert len(FeatureCache.open(workspace.features)) == 6
    assert read_quarantine(workspace.quarantine("features")) == []
    with pytest.raises(StageError, match="1 of 6 windows failed, more than max_failed_fraction 0 allows"):
        history.run(clips, features=features, max_failed_fraction=0.0)


def test_what_lost_power_is_mended_and_not_computed_again(history: History) -> None:
    clips = clip_contents(SIXTEEN[:6])
    assert history.run(clips) == both(6)
    for file in history.workspace.features.rglob("zarr.json"):
        file.write_bytes(b"")
    assert history.run(clips) == {}
    assert not verify(history.workspace.features).problems


def test_a_staged_piece_that_is_damaged_is_computed_again(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """Today's file system, or that of a worker's machine, may lose the end of what it took."""
    clips = clip_contents(SIXTEEN[:6])
    original, damaged = compute.stage_piece, []

    def once(cache: Path, variant: VariantAttributes, keys: Sequence[str], *given: object) -> dict[str, str]:
        refused: dict[str, str] = original(cache, variant, keys, *given)  # type: ignore[arg-type]
        if not damaged:
            file = staged_piece(cache, variant, keys)
            file.write_bytes(file.read_bytes()[:-100])
            damaged.append(len(keys))
        return refused

    monkeypatch.setattr(compute, "stage_piece", once)
    counted = history.run(clips)
    assert sum(counted.values()) == 12 + damaged[0]
    assert len(FeatureCache.open(history.workspace.features)) == 6


@pytest.mark.parametrize("size", [1, 4])
def test_a_window_is_the_same_in_any_company(history: History, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """To the bit, by the default networks: alone, and among others, whatever the size of a pass."""
    monkeypatch.setitem(PASS_WINDOWS, "cpu", size)
    params = made_up_params(history.folder / "data")
    write_clips(history.folder / "data", clip_contents(SIXTEEN[:6]))
    run_before_features(history.workspace, params)
    sources = window_sources(history.workspace, params)
    for modality in ("visual", "audio"):
        backbone = load_backbone(modality, BackboneParams(), "cpu")
        windows = [next(window_inputs(s, backbone.input, [0], params.spectrograms)) for s in sources]
        alone = [run_backbone(backbone, [window], length=4) for window in windows]
        together = run_backbone(backbone, windows, length=4)
        bare = backbone.rows(np.stack(windows), length=4)
        for layer, rows in together.items():
            assert np.array_equal(rows, np.concatenate([one[layer] for one in alone]))
            assert np.allclose(rows, bare[layer], rtol=0, atol=1e-5 * np.abs(rows).max())


class Ears(Backbone):
    """Reads waveforms."""

    def maps(self, windows: torch.Tensor) -> list[torch.Tensor]:
        return [windows[:, None].float()]


def ears(modality: Modality, params: BackboneParams) -> Backbone:
    """Named by the test below."""
    net = torch.nn.Linear(1, 1)
    return Ears(modality, params, net, input="waveform", stages=[("sound", 1)], transform="none")


def test_waveforms_of_another_rate_are_refused_before_anything_is_computed(history: History) -> None:
    """They would be heard as sound at 16 kHz, half as high."""
    audio = [{"name": f"{__name__}:ears", "weights": "seed:0"}]
    features = {"visual": [SMALL], "audio": audio, "length": 4}
    said = r"test_stage:ears reads waveforms at 16000 Hz; spectrograms.sample_rate_hz is 8000: set it to 16000"
    with pytest.raises(StageError, match=said):
        history.run(clip_contents(SIXTEEN[:3]), features=features)
    assert not (history.folder / "counts").exists()  # the picture's, neither


def test_networks_of_transformers_are_cached_as_they_are_computed(history: History, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="the package transformers is not installed (extra transformers)")
    for name in ("dinov3", "xls-r"):
        write(tmp_path / name, name)
    features = {
        "visual": [{"name": f"transformers:{tmp_path}/dinov3", "layers": [2], "pool": ["max", "token"]}],
        "audio": [{"name": f"transformers:{tmp_path}/xls-r", "layers": [1, 3]}],
        "length": 4,
        "dtype": "float32",
    }
    changes = {"features": features, "spectrograms": {"sample_rate_hz": 16000, "n_mels": 64}}
    history.run(clip_contents(SIXTEEN[:3]), **changes)
    params = made_up_params(history.folder / "data", **changes)
    sources, cache = window_sources(history.workspace, params), FeatureCache.open(history.workspace.features)
    assert list(cache.layers.values()) == [64, 64, 64]
    for modality, (one,) in (("visual", params.features.visual), ("audio", params.features.audio)):
        backbone = load_backbone(modality, one, "cpu")
        windows = [next(window_inputs(s, backbone.input, [0], params.spectrograms)) for s in sources]
        for layer, rows in run_backbone(backbone, windows, length=4).items():
            assert np.array_equal(cache.load(layers=[layer])[layer], rows)


@pytest.mark.parametrize("stage", [run_search, run_retrain, lambda w, p: evaluate(w, p, device="cpu")])
def test_a_cache_of_other_parameters_is_refused(tmp_path: Path, stage: object) -> None:
    workspace = make_workspace(tmp_path, make_index(subjects=5, windows=1), seeds=(0,))
    other = Params.model_validate({"windows": {"window_s": 2.0}})
    said = r"features.zarr was made with windows.window_s = 4.0, the parameters say 2.0"
    with pytest.raises(FeatureCacheError, match=said):
        stage(workspace, other)  # type: ignore[operator]


def test_networks_of_other_windows_are_not_evaluated(tmp_path: Path) -> None:
    """The cache was made anew after the parameters changed, the networks were not."""
    workspace = make_workspace(tmp_path, make_index(subjects=5, windows=1), seeds=(0,))
    path = workspace.retrain / "retrain.json"
    assert '"window_s": 4.0' in path.read_text()
    path.write_text(path.read_text().replace('"window_s": 4.0', '"window_s": 2.0'))
    with pytest.raises(EvaluateError, match="trained on features of other parameters"):
        evaluate(workspace, Params(), device="cpu")
