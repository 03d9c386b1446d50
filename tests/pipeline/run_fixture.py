"""A small made-up run for the tests of measure, evaluate and report: tables first, files when asked."""

from __future__ import annotations

import types
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch

import nas
from cache_schemas.evaluation import CLIPS, SCORES
from cache_schemas.features import FeatureCacheWriter, IndexAttributes, VariantAttributes, stage_piece
from cache_schemas.files import digest
from cache_schemas.manifest import Clip, Quarantined, write_manifest, write_quarantine
from cache_schemas.run import (
    NETWORKS,
    Member,
    RetrainEntry,
    RetrainRun,
    SearchEntry,
    SearchRun,
    history_of,
    write_run,
)
from pipeline.params import FeatureParams, Params
from pipeline.runs.evaluate import write_results
from pipeline.statistics.measure import measure
from pipeline.statistics.shortcuts import SHORTCUTS
from pipeline.statistics.systems import PROBE, PROPERTIES
from pipeline.statistics.tables import clips as one_a_clip
from pipeline.workspace import Workspace

CATEGORIES = ("RVRA", "RVFA", "FVRA", "FVFA")
METHODS = {"RVRA": "real", "RVFA": "rtvc", "FVRA": "faceswap", "FVFA": "wav2lip"}
CONTROLS = (PROPERTIES, PROBE)
SPLIT_OF = ("train", "train", "train", "val", "test")


def make_index(*, subjects: int = 30, windows: int = 2, categories: Sequence[str] = CATEGORIES) -> pd.DataFrame:
    """One row a window as in FeatureCache.index: every subject has one clip per category, every fifth is test."""
    random = np.random.default_rng(0)
    rows = []
    for subject in range(subjects):
        for category in categories:
            fake_video, fake_audio = category[0] == "F", category[2:3] == "F"
            clip = {
                "clip_id": f"s{subject:02d}-{category}",
                "path": f"s{subject:02d}/{category}.mp4",
                "label": int(fake_video or fake_audio),
                "video_label": int(fake_video),
                "audio_label": -1 if category.endswith("-") else int(fake_audio),
                "category": category,
                "clip_category": category,
                "method": METHODS.get(category, "real" if category == "RV-" else "faceswap"),
                "subject_id": f"s{subject:02d}",
                "dataset": "made-up",
                "split": SPLIT_OF[subject % 5],
                "split_kind": "subject",
                "has_audio": not category.endswith("-"),
                "duration_s": float(random.uniform(4, 9)),
                "leading_silence_s": float(random.uniform(0, 0.2)),
                "loudness_db": float(random.normal(-20, 3)),
                "width_px": 224,
                "height_px": 224,
                "fps": 25.0,
                "file_bytes": int(random.integers(100_000, 900_000)),
            }
            rows += [clip | {"window": window, "start_s": 4.0 * window} for window in range(windows)]
    return pd.DataFrame(rows).assign(row=lambda table: np.arange(len(table)))


def make_scores(
    index: pd.DataFrame, *, seeds: Sequence[int] = (0, 1, 2), networks: Sequence[str] = ("fusion", "visual", "audio")
) -> pd.DataFrame:
    """The rows of scores.csv: fusion sees both kinds of fake, the other two only their own modality's; controls little.

    networks: those that there are; the controls stand behind them.
    """
    random = np.random.default_rng(1)
    scored = index[index["split"].isin(["val", "test"])].assign(end_s=lambda table: table["start_s"] + 4.0)
    seen = {
        "fusion": scored["label"],
        "visual": scored["video_label"],
        "audio": scored["audio_label"].clip(lower=0),
    }
    parts = []
    for system, seed in [(name, seed) for name in networks for seed in seeds] + [(name, 0) for name in CONTROLS]:
        logits = 2.0 * seen.get(system, 0.3 * scored["label"]) - 1 + random.normal(size=len(scored))
        parts.append(scored.assign(system=system, seed=seed, score=1 / (1 + np.exp(-logits)))[list(SCORES)])
    return pd.concat(parts, ignore_index=True)


def make_clips(index: pd.DataFrame) -> pd.DataFrame:
    """The rows of clips.csv: two demographic groups."""
    table = one_a_clip(index)
    windows = index.groupby("clip_id").size().loc[table.index]
    group = np.where(table["subject_id"].str[-1:].isin(list("0123456")), "some", "others")
    more = {"group": group, "windows": windows, "video_segments": "", "audio_segments": ""}
    return table.assign(**more).reset_index()[[*CLIPS, *SHORTCUTS, "has_audio"]]


def measured(index: pd.DataFrame, **kwargs: Any) -> dict[str, Any]:
    """The metrics of made-up scores."""
    return measure(make_clips(index), make_scores(index, **kwargs))


LAYERS = {f"{modality}/net.blocks.{n}": 3 + n for modality in ("visual", "audio") for n in range(4)}
LENGTH = 2
VARIANTS = tuple(
    VariantAttributes(
        modality=modality,  # type: ignore[arg-type]
        name="net",
        backbone={"name": "net", "weights_sha256": digit * 64},
        layers={name: channels for name, channels in LAYERS.items() if name.startswith(modality)},
        length=LENGTH,
        dtype="float16",
    )
    for modality, digit in (("visual", "0"), ("audio", "1"))
)
BACKBONES = {variant.path: variant.backbone for variant in VARIANTS}
HOSTILE = Quarantined("c1", '<script>alert("x")</script>.mp4', "faces", "<img src=http://evil.example/a.png> & no face")


def make_genotype(network: str, seed: int = 0) -> nas.Genotype:
    """Two cells: the second one reads the first, every operation but Sum occurs once."""
    first, second = {"fusion": ("visual", "audio")}.get(network, (network, network))
    a, b, c = f"{first}/net.blocks.{seed % 2}", f"{second}/net.blocks.2", f"{second}/net.blocks.3"
    steps = (nas.Step(x="x", y="y", operation="ScaledDotAttn"), nas.Step(x="step1", y="y", operation="LinearGLU"))
    others = (nas.Step(x="y", y="x", operation="ConcatFC"), nas.Step(x="x", y="step1", operation="Sum"))
    return nas.Genotype(cells=(nas.Cell(x=a, y=b, steps=steps), nas.Cell(x="cell1", y=c, steps=others)))


def make_workspace(
    root: Path,
    index: pd.DataFrame,
    *,
    seeds: Sequence[int] = (0, 1),
    silence: float = 0.0,
    copies: Mapping[str, str] = types.MappingProxyType({}),
    pseudo: int = FeatureParams().pseudo,
) -> Workspace:
    """A workspace as the retrain stage leaves it: cache, genotypes, (untrained) networks, a quarantined clip.

    silence: added to the audio features that are stored of windows without sound; copies: {clip: another one, whose
    visual features it has}; pseudo: so many pseudo-fakes of every window of a real clip that can be heard.
    """
    workspace = Workspace(root)
    _write_cache(workspace.features, index, silence, copies, pseudo)
    write_manifest(workspace.manifest, [clip_of(row) for row in index.drop_duplicates("clip_id").to_dict("records")])
    found, trained = [], []
    for network in NETWORKS:
        for seed in seeds:
            genotype = make_genotype(network, seed)
            found.append(_search_entry(network, seed, genotype))
            trained.append(_retrain_entry(workspace, network, seed, genotype))
    write_run(workspace.search / "search.json", SearchRun(entries=found))
    params = Params(features=FeatureParams(pseudo=pseudo)).model_dump(mode="json")
    write_run(workspace.retrain / "retrain.json", RetrainRun(params=params, backbones=BACKBONES, entries=trained))
    write_quarantine(workspace.quarantine("manifest"), [Quarantined("c2", "b.mp4", "manifest", "no label")])
    write_quarantine(workspace.quarantine("faces"), [HOSTILE])
    return workspace


def write_evaluation(workspace: Workspace, index: pd.DataFrame, **kwargs: Any) -> dict[str, Any]:
    """The metrics of made-up scores, written as the evaluate stage does."""
    clips, scores = make_clips(index), make_scores(index, **kwargs)
    result = measure(clips, scores) | {"seed": 0}
    write_results(workspace.evaluate, clips, scores, result)
    return result


def clip_of(row: Mapping[Hashable, Any]) -> Clip:
    """What the manifest says of an index's clip."""
    video, sound = row["clip_category"][:2] == "FV", row["clip_category"][2:]
    audio_label = None if sound == "-" else int(sound == "FA")
    names = ("clip_id", "path", "dataset", "subject_id", "method", "split", "split_kind", "file_bytes")
    return Clip(
        **{name: row[name] for name in names}, source_id="", target_id="", video_label=int(video),
        audio_label=audio_label, label=int(video or bool(audio_label)), category=row["clip_category"],
    )  # fmt: skip


def _write_cache(path: Path, index: pd.DataFrame, silence: float, copies: Mapping[str, str], pseudo: int) -> None:
    writer, random, rows = FeatureCacheWriter(path), np.random.default_rng(2), {}
    for variant in VARIANTS:
        windows = zip(index["clip_id"], index["window"].tolist(), strict=True)
        keys = [digest(variant.path, clip, window, digits=32) for clip, window in windows]
        features = {name: random.normal(size=(len(keys), LENGTH, c)) for name, c in variant.layers.items()}
        if variant.modality == "audio":
            for x in features.values():
                x[~index["has_audio"].to_numpy()] += silence
        else:
            for x in features.values():
                for copy, original in copies.items():
                    x[index["clip_id"] == copy] = x[index["clip_id"] == original]
        writer.add_variant(variant)
        stage_piece(path, variant, keys, features)
        writer.pack(variant, keys, final=True)
        heard = ((index["label"] == 0) & index["has_audio"] & (variant.modality == "audio")).tolist()
        pairs = list(zip(keys, heard, strict=True))
        drawn = [[digest(key, draw, digits=32) if real else key for draw in range(pseudo)] for key, real in pairs]
        made = [digest(key, draw, digits=32) for key, real in pairs if real for draw in range(pseudo)]
        if made:
            shapes = {name: (len(made), LENGTH, c) for name, c in variant.layers.items()}
            stage_piece(path, variant, made, {name: random.normal(size=shape) for name, shape in shapes.items()})
            writer.pack(variant, made, final=True)
        rows[variant] = [each for key, of in zip(keys, drawn, strict=True) for each in (key, *of)]
    params = Params(features=FeatureParams(pseudo=pseudo)).of_features()
    attributes = IndexAttributes(views=1, variants=list(VARIANTS), params=params, versions={})
    writer.finish(index, rows, attributes)


def _search_entry(network: Any, seed: int, genotype: nas.Genotype) -> SearchEntry:
    epochs = range(6)
    curves: list[dict[str, float | None]] = [
        {
            "epoch": e,
            "train_loss": 0.7 - 0.05 * e + 0.01 * seed,
            "val_loss": 0.7 - 0.03 * e,
            "val_auc": 0.5 + 0.05 * e,
            "arch_grad_norm": None if e < 2 else 1e-3 / (e + seed),  # while only weights train
            "entropy_cells": 1 - 0.1 * e,
            "entropy_steps": 1 - 0.08 * e,
            "entropy_operations": 1 - 0.12 * e,
        }
        for e in epochs
    ]
    names = [name for name in LAYERS if network in ("fusion", name.partition("/")[0])]
    cells = []
    for cell in range(2):
        inputs = names + ["cell1"] * cell
        steps = [
            {
                **_slots(["x", "y"] + ["step1"] * step),
                "operations": {"Sum": 0.1, "ScaledDotAttn": 0.5, "LinearGLU": 0.3, "ConcatFC": 0.1},
            }
            for step in range(2)
        ]
        cells.append({**_slots(inputs), "steps": steps})
    return SearchEntry(
        network=network,
        seed=seed,
        members=[Member(genotype=genotype.model_dump(mode="json"))],
        curves=curves,
        probabilities=cells,
        history=history_of([cells] * len(epochs)),
    )


def _slots(inputs: list[str]) -> dict[str, Any]:
    share = [2 / (len(inputs) + 1)] + [1 / (len(inputs) + 1)] * (len(inputs) - 1)
    return {"inputs": inputs, "x": share, "y": share[::-1]}


def _retrain_entry(workspace: Workspace, network: Any, seed: int, genotype: nas.Genotype) -> RetrainEntry:
    torch.manual_seed(seed)
    compact = nas.CompactNetwork(genotype, LAYERS, channels=4, length=LENGTH)
    for parameter in compact.parameters():
        torch.nn.init.normal_(parameter)
    weights = f"{network}-{seed}.safetensors"
    workspace.retrain.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(compact.state_dict(), workspace.retrain / weights)
    return RetrainEntry(
        network=network,
        seed=seed,
        genotype=genotype.model_dump(mode="json"),
        spec=compact.spec(),
        weights=weights,
        best_epoch=3,
        curves=[
            {"epoch": e, "train_loss": 0.6 - 0.1 * e, "val_loss": 0.6 + 0.01 * abs(e - 3), "val_auc": 0.6}
            for e in range(5)
        ],
    )
