"""Pseudo-fakes in the features stage: of which windows they are, what names them, and what is computed for them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cache_schemas.features import FeatureCache, FeatureCacheError, FeatureCacheWriter
from cache_schemas.features.layout import keys_text
from cache_schemas.features.upkeep import summarise, verify
from pipeline.backbones import load_backbone
from pipeline.features.forward import run_backbone
from pipeline.features.stage import build_features, describe, row_keys
from pipeline.features.views import audio_view, sound_view, visual_view
from pipeline.features.windows import window_inputs, window_sources
from pipeline.params import Params
from pipeline.runs.cache import Source, cache_identity, open_cache
from pipeline.sound.clip import compute_spectrogram, from_pcm
from pipeline.workspace import Workspace
from tests.pipeline.counting import LOG, logged
from tests.pipeline.made_up_media import clip_contents, made_up_params, run_before_features, write_clips

CLIPS, REAL = clip_contents([f"clip{i}" for i in range(9)]), 3
ONLY_THEY = {"audio": 2 * REAL}


class Made:
    """Nine clips up to their crops, every third of them real, and caches over them."""

    def __init__(self, folder: Path) -> None:
        self.root, self.workspace, self.counts = folder / "data", Workspace(folder / "work"), folder / "counts"
        write_clips(self.root, CLIPS)
        table = self.root / "manifest.csv"
        first, *rows = table.read_text().splitlines()
        rows = [row.replace("real,real", "real,fake") if i % 3 else row for i, row in enumerate(rows)]
        table.write_text("\n".join([first, *rows]) + "\n")
        run_before_features(self.workspace, self.params())

    def params(self, pseudo: int = 0, **more: Any) -> Params:
        net = {"name": "tests.pipeline.counting:small", "weights": "seed:1"}
        features = {"visual": [net], "audio": [net], "length": 4, "random_control": False, **more}
        return made_up_params(self.root, features=features | {"pseudo": pseudo})

    def build(self, pseudo: int = 0, **more: Any) -> FeatureCache:
        return build_features(self.workspace, self.params(pseudo, **more))

    def computed(self) -> Counter[str]:
        """{modality: rows computed} since it was asked last."""
        found = Counter(modality for modality, *_ in logged(self.counts))
        self.counts.unlink(missing_ok=True)
        return found


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.setenv(LOG, str(tmp_path / "counts"))
    return Made(tmp_path)


def test_to_have_some_or_none_costs_nothing_but_their_rows(made: Made) -> None:
    """There and back: each cache has its own name and the bytes that it had, and none is taken for the other."""
    plain = made.build()
    identity, content = cache_identity(plain), made.workspace.content.read_bytes()
    assert made.computed() == {"visual": 9, "audio": 9}
    having = made.build(2)
    assert made.computed() == ONLY_THEY
    assert cache_identity(having) != identity
    with pytest.raises(FeatureCacheError, match=r"features\.pseudo = 2, the parameters say None"):
        open_cache(made.workspace, made.params())
    back = made.build()
    assert (back.index_name, cache_identity(back)) == (plain.index_name, identity)
    assert made.workspace.content.read_bytes() == content
    with pytest.raises(FeatureCacheError, match=r"features\.pseudo = None, the parameters say 2"):
        open_cache(made.workspace, made.params(2))
    assert cache_identity(made.build(2)) == cache_identity(having)
    assert cache_identity(made.build(1)) not in (identity, cache_identity(having))
    assert made.computed() == {}
    assert not verify(made.workspace.features).problems


def test_a_run_that_was_killed_goes_on(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = cache_identity(made.build())
    made.computed()

    def killed(*args: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FeatureCacheWriter, "pack", killed)
        with pytest.raises(KeyboardInterrupt):
            made.build(2)
    assert made.computed() == ONLY_THEY
    assert cache_identity(FeatureCache.open(made.workspace.features)) == identity
    cache = made.build(2)
    assert made.computed() == {}
    assert len(cache.load_pseudo()[0]) == 2 * REAL


def test_they_are_what_the_backbones_make_of_the_smoothed_sound(made: Made) -> None:
    """With views as well; and with random weights beside them, which have none."""
    cache = made.build(2, views=3, random_control=True)
    params, net = made.params(2, views=3), describe(made.params(), window_sources(made.workspace, made.params()))[1]
    assert (cache.views, cache.pseudo) == (3, 2)
    of, features = cache.load_pseudo()
    real = np.flatnonzero(cache.index["label"] == 0).tolist()
    assert of.tolist() == real * 2
    sources = window_sources(made.workspace, params)
    own, views = cache.load(), cache.load(views=True)
    backbone = load_backbone("audio", net.params, "cpu")
    for draw in (1, 2):
        heard = [next(window_inputs(sources[i], "spectrogram", [-draw], params.spectrograms)) for i in real]
        for layer, x in run_backbone(backbone, heard, length=4).items():
            assert torch.equal(features[layer][(draw - 1) * REAL : draw * REAL], torch.from_numpy(x).half())
    plain = [next(window_inputs(source, "spectrogram", [0], params.spectrograms)) for source in sources]
    for layer, x in run_backbone(backbone, plain, length=4).items():
        assert torch.equal(
            own[layer], torch.from_numpy(x).half()
        )  # of fakes, whose pseudo-fakes are they themselves, too
    for layer, x in features.items():
        if layer.startswith("visual/"):
            assert torch.equal(x, own[layer][of])
        assert views[layer].shape[0] == 3
    control = cache.control()
    assert control
    assert (control.views, control.pseudo) == (1, 0)
    assert len(control.load_pseudo()[0]) == 0
    assert not verify(made.workspace.features).problems
    counts = {one.variant.path: one.used for one in summarise(made.workspace.features)}
    assert [counts[variant.path] for variant in cache.variants] == [9 * 3, 9 * 3 + 2 * REAL]


def test_runs_over_random_weights_are_the_same_with_and_without(made: Made) -> None:
    named = []
    for pseudo in (0, 2):
        params = made.params(pseudo, random_control=True)
        build_features(made.workspace, params)
        control = Source.of(made.workspace, params).control()
        assert control
        named.append(control.naming)
    assert named[0] == named[1] == [control.identity]


def test_only_clips_that_are_real_throughout_and_can_be_heard_have_any(made: Made) -> None:
    params = made.params(2)
    sources = window_sources(made.workspace, params)
    real, fake = sources[0], sources[1]
    assert (real.clip.label, fake.clip.label) == (0, 1)
    mute = replace(real, info=real.info | {"has_audio": False})
    spliced = replace(fake, clip=replace(fake.clip, audio_segments=((3.0, 3.5),)))
    assert spliced.labels == (0, 0)  # a real piece of it
    visual, audio = (column.variant for column in describe(params, sources))
    many = [real, fake, mute, spliced]
    of_window = [len(set(row_keys(audio, [source], params, [0, -1, -2]))) for source in many]
    assert of_window == [3, 1, 1, 1]
    assert [len(set(row_keys(visual, [source], params, [0, -1, -2]))) for source in many] == [1, 1, 1, 1]
    assert row_keys(audio, many, params, [0]) == row_keys(audio, many, made.params(), [0])


def test_the_keys_lie_behind_those_of_the_views(made: Made) -> None:
    cache = made.build(1, views=2)
    params, sources = made.params(1, views=2), window_sources(made.workspace, made.params())
    for variant in cache.variants:
        stored = [text for keys in cache.row_keys(variant) for text in keys_text(keys)]
        assert tuple(stored) == row_keys(variant, sources, params, [0, 1, -1])


def test_the_sound_depends_on_the_window_and_the_draw_alone() -> None:
    sound = np.random.default_rng(0).integers(-3000, 3000, 16000, dtype=np.int16)
    one, again, other, elsewhere = (
        audio_view(sound, rate_hz=16000, key=key, view=view)
        for key, view in (("k", -1), ("k", -1), ("k", -2), ("l", -1))
    )
    assert (one == again).all()
    assert one.shape == sound.shape
    assert not (one == sound).all()
    assert not (one == other).all()
    assert not (one == elsewhere).all()
    assert abs(np.std(one / 1.0) / np.std(sound / 1.0) - 1) < 0.02


def test_it_changes_less_from_one_moment_to_the_next_and_the_picture_not_at_all() -> None:
    """Noise whose loudness jumps every 20 ms: what is smoothed over time jumps less."""
    random = np.random.default_rng(0)
    loud = np.repeat(random.choice([300, 6000], 100), 320)
    sound = (random.standard_normal(32000) * loud).clip(-32768, 32767).astype(np.int16)

    def jumps(x: Any) -> float:
        levels = np.log(np.square(x.astype(float)).reshape(-1, 320).mean(1) + 1)
        return float(np.abs(np.diff(levels)).mean())

    for view in (-1, -2, -3, -4):
        assert jumps(audio_view(sound, rate_hz=16000, key="k", view=view)) < 0.9 * jumps(sound)
    settings = Params().spectrograms
    changed, heard = sound_view(sound, np.zeros((80, 200), np.float32), key="k", view=-1, params=settings)
    assert np.array_equal(heard, compute_spectrogram(from_pcm(changed)[None], settings)[0])
    crops = random.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    assert visual_view(crops, key="k", view=-1) is crops
