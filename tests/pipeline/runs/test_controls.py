"""Controls beside the networks: random weights, and the sound of another clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

import nas
from cache_schemas.features import Control, FeatureCache, FeatureCacheWriter, VariantAttributes, stage_piece
from cache_schemas.features.layout import keys_text
from cache_schemas.files import digest
from cache_schemas.run import RetrainRun, read_run
from pipeline.controls.sound import other_windows
from pipeline.params import Params
from pipeline.runs.cache import Source, cache_identity, clip_index
from pipeline.runs.controls import control_scores
from pipeline.runs.evaluate import evaluate
from pipeline.statistics.metrics import auc
from pipeline.statistics.systems import OTHER_SOUND, PROBE, RANDOM_WEIGHTS
from pipeline.workspace import Workspace
from tests.pipeline.run_fixture import VARIANTS, make_index, make_workspace

pytestmark = pytest.mark.usefixtures("few_draws")


def add_control(workspace: Workspace) -> None:
    """Features of random weights, of which one channel tells the label."""
    cache, writer = FeatureCache.open(workspace.features), FeatureCacheWriter(workspace.features)
    random, labels, rows = np.random.default_rng(5), cache.index["label"].to_numpy(), {}
    for variant in VARIANTS:
        of = VariantAttributes(**variant.model_dump() | {"backbone": variant.backbone | {"weights_sha256": "f" * 64}})
        rows[of] = [digest(of.path, i, digits=32) for i in range(len(cache))]
        layers = {name: random.normal(size=(len(cache), of.length, c)) for name, c in of.layers.items()}
        for x in layers.values():
            x[:, :, 0] += 3 * labels[:, None]
        writer.add_variant(of)
        stage_piece(workspace.features, of, rows[of], layers)
        writer.pack(of, rows[of], final=True)
    attributes = cache.index_attributes
    keys = {of: keys_text(cache.row_keys(of)) for of in cache.variants}
    own = attributes.params | {"features": attributes.params["features"] | {"pseudo": 0}}
    control = Control(rows, attributes.model_copy(update={"variants": list(rows), "params": own}))
    writer.finish(cache.index, keys, attributes, control=control)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, pd.DataFrame]:
    """A workspace whose cache has a control, and the scores of its evaluation."""
    workspace = make_workspace(tmp_path_factory.mktemp("work"), make_index(categories=("RVRA", "FVFA", "FV-")))
    identity = cache_identity(FeatureCache.open(workspace.features))
    add_control(workspace)
    assert cache_identity(FeatureCache.open(workspace.features)) == identity
    evaluate(workspace, Params(), device="cpu")
    return workspace, pd.read_csv(workspace.evaluate / "scores.csv")


def test_random_weights_are_probed_on_their_own_features(finished: tuple[Workspace, pd.DataFrame]) -> None:
    """The cache's own features are chance, those of random weights tell: neither is taken for the other."""
    _, scores = finished
    tested = scores[scores["split"] == "test"]
    found = {name: auc(of["label"], of["score"]) for name, of in tested.groupby("system")}
    assert found[RANDOM_WEIGHTS] > 0.95
    assert found[PROBE] < 0.8


def test_the_fusion_networks_hear_another_clip(finished: tuple[Workspace, pd.DataFrame]) -> None:
    workspace, scores = finished
    cache = FeatureCache.open(workspace.features)
    index = clip_index(workspace, cache)
    entries = [e for e in read_run(workspace.retrain / "retrain.json", RetrainRun).entries if e.network == "fusion"]
    mine = scores[scores["system"] == OTHER_SOUND]
    assert set(mine["seed"]) == {entry.seed for entry in entries}
    everything = cache.load()
    for split in ("val", "test"):
        at = np.flatnonzero(index["split"] == split)
        places = at[other_windows(index.iloc[at], Params().seed)]
        heard = {name: x[torch.from_numpy(places if name[0] == "a" else at)] for name, x in everything.items()}
        for entry in entries:
            network = nas.CompactNetwork.from_spec(entry.spec)
            network.load_state_dict(safetensors.torch.load_file(workspace.retrain / entry.weights))
            told = mine[(mine["split"] == split) & (mine["seed"] == entry.seed)]["score"].to_numpy()
            assert told == pytest.approx(network.predict(heard).numpy(), abs=1e-5)
    both = scores[scores["system"].isin(["fusion", OTHER_SOUND])].pivot_table(
        index=["clip_id", "window", "seed"], columns="system", values="score"
    )
    mute = both.index.get_level_values("clip_id").str.endswith("FV-")
    assert (both["fusion"] == both[OTHER_SOUND])[mute].all()
    assert (both["fusion"] != both[OTHER_SOUND])[~mute].mean() > 0.9


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # probes have nothing to hear
def test_what_is_not_there_is_left_out_with_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = make_workspace(tmp_path, make_index(subjects=10, categories=("RV-", "FV-")), seeds=(0,))
    evaluate(workspace, Params(), device="cpu")
    systems = set(pd.read_csv(workspace.evaluate / "scores.csv")["system"])
    assert not {RANDOM_WEIGHTS, OTHER_SOUND} & systems
    said = " ".join(capsys.readouterr().err.split())
    assert "without random weights: no run has computed features of random weights: run `bmnas features`" in said
    assert "without sound of another clip: no window has sound" in said
    assert RANDOM_WEIGHTS not in control_scores(Source.of(workspace, Params()))
