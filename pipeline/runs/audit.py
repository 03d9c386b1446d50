"""The audit of an evaluation: its checks are `pipeline.statistics.audit`'s, and what they look at is gathered here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

import nas
from cache_schemas.features import FeatureCache
from cache_schemas.manifest import find_leaks, read_manifest
from cache_schemas.run import RetrainRun
from pipeline.params import Params
from pipeline.runs.cache import Windows, cache_identity
from pipeline.statistics import audit as checks
from pipeline.workspace import Workspace


def audit(
    workspace: Workspace, run: RetrainRun, cache: FeatureCache, clips: pd.DataFrame, scores: pd.DataFrame, *, seed: int
) -> list[checks.Finding]:
    """What every check says of a run. cache: the one evaluated; clips, scores: the rows of clips.csv and scores.csv.

    seed: that of the draws of people.
    """
    table, index = clips.set_index("clip_id"), cache.index
    split_of = dict(zip(clips["clip_id"], clips["split"], strict=True))  # the manifest may be newer than the cache
    used = [clip for clip in read_manifest(workspace.manifest) if clip.clip_id in split_of]
    leaks = find_leaks(used, lambda clip: str(split_of[clip.clip_id]))
    files = pd.DataFrame(
        [(clip.clip_id, split_of[clip.clip_id], clip.path, clip.audio_path) for clip in used],
        columns=["clip_id", "split", "path", "audio_path"],
    )
    same, identity = run.cache == cache_identity(cache), cache_identity(cache)
    val = _val_windows(run, cache, scores) if same else {}
    return [
        *checks.check_properties(table, trimmed=cache.attributes["params"]["windows"]["trim_silence"]),
        *checks.check_people(
            leaks,
            official=any(clip.split_kind == "official" for clip in used),
            donors_named=any(clip.source_id or clip.target_id for clip in used),
        ),
        checks.check_epochs(run.entries, val, "the networks were trained on another cache, with another val split"),
        checks.check_random_weights(table, scores[scores["split"] == "test"], seed=seed),
        checks.check_files(files, _pictures(cache)),
        checks.check_trained(index, trained_on=run.cache, identity=identity),
    ]


def _pictures(cache: FeatureCache) -> pd.DataFrame:
    """split, path and pictures of every window that has some: a digest of its features in the smallest visual layer."""
    index = cache.index[["split", "path"]]
    layers = {name: channels for name, channels in cache.layers.items() if name.startswith("visual/")}
    if not layers:
        return index.iloc[:0].assign(pictures="")
    layer = min(layers, key=lambda name: layers[name])
    rows = cache.load(layers=[layer])[layer].flatten(1).numpy()
    names = [hashlib.blake2b(row.tobytes(), digest_size=16).hexdigest() for row in rows]
    return index.assign(pictures=names).iloc[np.flatnonzero(rows.any(axis=1))]


def _val_windows(run: RetrainRun, cache: FeatureCache, scores: pd.DataFrame) -> Mapping[tuple[str, int], pd.DataFrame]:
    """{(network, seed): its val windows}, each with the weight that its class has in the loss."""
    labels, split = cache.index["label"].to_numpy(int), list(cache.index["split"])
    windows = Windows({}, labels, split, {}, pseudo_of=cache.pseudo_of())
    own = np.bincount(labels[np.array(split) == "train"], minlength=2)
    balanced = Params.model_validate(run.params).retrain.class_weights
    val = scores[scores["split"] == "val"]
    tables: dict[Any, pd.DataFrame] = dict(list(val.groupby(["system", "seed"], sort=False)))
    found: dict[tuple[str, int], pd.DataFrame] = {}
    for entry in run.entries:
        table = tables.get((entry.network, entry.seed))
        if table is not None:
            learnt = own + np.array([0, len(windows.drawn(nas.Genotype.model_validate(entry.genotype).layers()))])
            weights = learnt.sum() / (2.0 * learnt) if balanced else np.ones(2)
            found[entry.network, entry.seed] = table.assign(weight=weights[table["label"].to_numpy(int)])
    return found
