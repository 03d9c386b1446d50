"""Features of random weights: the same windows by the same backbones, and never to the cost of the cache itself."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from cache_schemas.content import ControlContent, cache_identity
from cache_schemas.features import FeatureCache, FeatureCacheWriter
from cache_schemas.features.upkeep import verify
from pipeline.backbones import load_backbone
from pipeline.features.forward import run_backbone
from pipeline.features.stage import build_features
from pipeline.features.windows import window_inputs, window_sources
from pipeline.params import BackboneParams, Params
from pipeline.runs.cache import Source
from pipeline.workspace import Workspace
from tests.pipeline.counting import LOG, logged
from tests.pipeline.made_up_media import clip_contents, made_up_params, run_before_features, write_clips

CLIPS = clip_contents([f"clip{i}" for i in range(12)])


def net(name: str, weights: str = "seed:1") -> dict[str, str]:
    return {"name": f"tests.pipeline.counting:{name}", "weights": weights}


class Made:
    """A workspace up to the crops, and the features of any backbones over it."""

    def __init__(self, folder: Path) -> None:
        self.root, self.workspace, self.counts = folder / "data", Workspace(folder / "work"), folder / "counts"
        write_clips(self.root, CLIPS)
        run_before_features(self.workspace, made_up_params(self.root))

    def params(self, visual: dict[str, str], audio: dict[str, str] | None = None, **changes: object) -> Params:
        features = {"visual": [visual], "audio": [audio or net("small")], "length": 4, **changes}
        return made_up_params(self.root, features=features)

    def build(self, *args: Any, **changes: object) -> FeatureCache:
        return build_features(self.workspace, self.params(*args, **changes))

    def computed(self) -> Counter[str]:
        """{modality: windows computed} since it was asked last."""
        found = Counter(modality for modality, *_ in logged(self.counts))
        self.counts.unlink(missing_ok=True)
        return found


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.setenv(LOG, str(tmp_path / "counts"))
    return Made(tmp_path)


def test_it_is_what_the_same_backbones_compute_with_random_weights(made: Made) -> None:
    """To the bit, by real networks and in every layer."""
    nets = {"visual": {"name": "test_efficientnet", "weights": "seed:5", "layers": 2}, "audio": net("small")}
    params = made.params(**nets, views=2)
    cache = build_features(made.workspace, params)
    control = cache.control()
    assert control
    assert (cache.views, control.views) == (2, 1)
    loaded, own = control.load(), cache.load()
    assert {name: x.shape for name, x in loaded.items()} == {name: x.shape for name, x in own.items()}
    sources = window_sources(made.workspace, params)
    for modality, chosen in nets.items():
        backbone = load_backbone(modality, BackboneParams(**chosen | {"weights": "seed:0"}), "cpu")  # type: ignore[arg-type]
        windows = [next(window_inputs(s, backbone.input, [0], params.spectrograms)) for s in sources]
        for layer, rows in run_backbone(backbone, windows, length=4).items():
            assert torch.equal(loaded[layer], torch.from_numpy(rows).half())
            assert not torch.equal(loaded[layer], own[layer])
    assert verify(made.workspace.features).problems == []


def test_nothing_of_the_cache_is_another_with_it(made: Made) -> None:
    without = made.build(net("small"), random_control=False)
    identity, content = cache_identity(without), made.workspace.content.read_bytes()
    assert made.computed() == {"visual": 12, "audio": 12}
    assert without.control() is None
    assert "random_control: false" in ControlContent.model_validate_json(made.workspace.control.read_bytes()).reason
    cache = made.build(net("small"))
    assert made.computed() == {"visual": 12, "audio": 12}, "only what it lacks"
    assert (cache.index_name, cache_identity(cache)) == (without.index_name, identity)
    assert made.workspace.content.read_bytes() == content
    assert made.build(net("small")).control()
    assert made.computed() == {}
    control = cache.control()
    assert control
    assert ControlContent.model_validate_json(made.workspace.control.read_bytes()).identity == cache_identity(control)


def test_backbones_of_random_weights_are_their_own_control(made: Made) -> None:
    cache = made.build(net("small", "seed:0"), net("small", "seed:0"))
    assert made.computed() == {"visual": 12, "audio": 12}
    control = cache.control()
    assert control
    assert cache_identity(control) == cache_identity(cache)


def test_a_window_that_fails_by_random_weights_alone_is_kept(made: Made) -> None:
    cache = made.build(net("fragile"))
    assert len(cache) == 12
    assert cache.control() is None
    assert "fragile.1: a feature is not finite as float16" in cache.no_control
    assert made.workspace.quarantine("features").read_text().count("\n") == 1


@pytest.mark.parametrize(
    ("backbone", "said"),
    [
        (net("deaf", "bundled"), "counting:deaf is the same with weights: seed:0"),
        ({"name": "test_picky:net", "weights": "bundled"}, "cannot be had with weights: seed:0: only bundled"),
    ],
)
def test_a_backbone_that_knows_no_random_weights_has_none(
    made: Made, backbone: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "test_picky.py").write_text(
        "from tests.pipeline.counting import deaf\n"
        "def net(modality, params):\n"
        "    if params.weights != 'bundled': raise RuntimeError('only bundled')\n"
        "    return deaf(modality, params)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    cache = made.build(backbone)
    assert len(cache) == 12
    assert cache.control() is None
    assert said in cache.no_control


def test_killed_between_the_two_it_goes_on(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache itself is finished by then, and has no control that is not whole."""
    pack = FeatureCacheWriter.pack
    packed: list[str] = []

    def killed(writer: FeatureCacheWriter, variant: Any, keys: Any, *, final: bool) -> None:
        packed.append(variant.modality)
        if len(packed) > 3:  # the last backbone of four
            raise KeyboardInterrupt
        pack(writer, variant, keys, final=final)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureCacheWriter, "pack", killed)
        with pytest.raises(KeyboardInterrupt):
            made.build(net("small"))
    assert made.computed() == {"visual": 24, "audio": 24}
    cache = FeatureCache.open(made.workspace.features)
    assert len(cache) == 12
    assert cache.control() is None
    assert verify(made.workspace.features).problems == []
    assert made.build(net("small")).control()
    assert made.computed() == {}


def test_a_run_over_it_is_named_by_it(made: Made) -> None:
    params = made.params(net("small"))
    build_features(made.workspace, params)
    source = Source.of(made.workspace, params)
    control = source.control()
    assert control
    assert control.identity != source.identity
    own, random = source.windows(), control.windows()
    assert own.split == random.split
    assert (own.labels == random.labels).all()
    assert own.features.keys() == random.features.keys()
    build_features(made.workspace, made.params(net("small"), random_control=False))
    assert Source.of(made.workspace, params).control() is None
    assert Source.of(made.workspace, params).identity == source.identity
