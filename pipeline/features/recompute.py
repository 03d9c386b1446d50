"""`bmnas cache verify --sample`: rows of the cache computed again from the media, by the cache's own parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cache_schemas.features import FeatureCache, VariantAttributes
from cache_schemas.features.upkeep import both_indexes
from cache_schemas.files import file_sha256
from cache_schemas.manifest import Clip, clip_id_of
from cache_schemas.windows import ClipWindows
from pipeline import media
from pipeline.backbones import Backbone, bare_identity, load_backbone
from pipeline.backbones.fusing import relative_error
from pipeline.compute.machine import device_of
from pipeline.faces.clip import file_faces
from pipeline.features.forward import MODALITIES, NEEDED, input_views, run_backbone
from pipeline.features.views import views_of
from pipeline.params import Params, parse_params
from pipeline.shards.stage import StageError
from pipeline.sound.clip import file_sound

LIMIT = 0.02
"""Largest relative error of a layer that counts as the same.

float16 rounds by up to 4.9e-4, and with another number of threads a face's box, and so its crops, move by rounding:
right rows of the built-in data were off by 4.5e-3 at most, another window of the same clip by 0.17 at least.
"""


@dataclass
class Sample:
    """What came out of computing rows again."""

    rows: int = 0
    """Of windows and views; each is compared in every layer of every backbone."""
    largest_error: float = 0.0
    problems: list[str] = field(default_factory=list)
    damaged: list[tuple[VariantAttributes, int]] = field(default_factory=list)
    """Shards with a wrong row, for `upkeep.drop`."""


def verify_sample(
    path: Path | str,
    given: Params,
    count: int,
    *,
    clips: Iterable[Clip] = (),
    seed: int = 0,
    advance: Callable[[int], None] = lambda _: None,
) -> Sample:
    """Compares `count` rows, drawn from the seed, with what their clips give today.

    given: says where the clips lie and what computes; all else comes from the cache itself. clips: those of the
    manifest, which alone tells of sound in a file of its own. advance: by so many rows.
    Raises StageError when a backbone's weights are not those of the cache.
    """
    cache = FeatureCache.open(path)
    params = params_of(cache, given)
    indexes = [(one, backbones_of(one, params_of(one, given))) for one in both_indexes(cache)]
    own = np.argwhere(np.any([cache.own(variant) for variant in cache.variants], axis=0))
    drawn = np.random.default_rng(seed).permutation(own)[:count]
    found, listed = Sample(), {clip.clip_id: clip for clip in clips}
    chosen = pd.DataFrame(drawn, columns=["position", "column"])
    for clip_id, rows in chosen.groupby(cache.index["clip_id"].to_numpy()[chosen["position"]], sort=True):
        index = cache.index.iloc[int(rows["position"].iloc[0])]
        try:
            arrays = _windows_again(listed.get(str(clip_id)) or _clip(index), params)
        except (media.MediaError, OSError) as error:
            found.problems.append(f"clip {clip_id} ({index['path']}) cannot be computed again: {error}")
        else:
            for position, column in rows.itertuples(index=False):
                _compare(indexes, arrays, position=position, column=column, params=params, found=found)
        advance(len(rows))
    return found


def params_of(cache: FeatureCache, given: Params) -> Params:
    """`given`, with what decides a window's features as it was when the cache was made."""
    made = parse_params(cache.attributes["params"], source=f"{cache.path}: its attributes")
    of_cache = {name: getattr(made, name) for name in made.of_features()}
    return given.model_copy(update=of_cache)


def backbones_of(cache: FeatureCache, params: Params) -> dict[VariantAttributes, Backbone]:
    """The cache's backbones, loaded; raises StageError where one has other weights today."""
    found = {}
    for modality in MODALITIES:
        for chosen in getattr(params.features, modality):
            backbone = load_backbone(modality, chosen, device_of(params.compute))
            same = [
                v for v in cache.variants if v.modality == modality and bare_identity(v.backbone) == backbone.identity()
            ]
            if not same:
                raise StageError(
                    f"{cache.path}: backbone {chosen.name} ({modality}) is not the one that made it: its weights are "
                    "others today; restore them"
                )
            found[same[0]] = backbone
    return found


def _windows_again(clip: Clip, params: Params) -> dict[float, dict[str, Any]]:
    """{start_s: the arrays that the stages before `features` would store of that window}."""
    root = Path(params.data.root).resolve()
    files = [media.inside(root, name) for name in (clip.file_name, clip.audio_file_name) if name]
    for file in files:
        media.check_file(file)
    if clip_id_of(*map(file_sha256, files)) != clip.clip_id:
        raise media.MediaError(f"{' and '.join(map(str, files))} has another content than the clip that was cached")
    sound = file_sound(files[0], params, audio=files[1] if clip.audio_path else None, clip_id=clip.clip_id)
    faces = file_faces(files[0], ClipWindows(clip.clip_id, sound.starts_s, sound.info["available_s"]), params)
    heard = sound.by_start()
    return {start: heard[start] | seen for start, seen in faces.by_start().items()}


def _clip(row: pd.Series[Any]) -> Clip:
    """The index's row as the stages take it; they look at the clip's names only."""
    audio_label = None if row["audio_label"] < 0 else int(row["audio_label"])
    return Clip(
        row["clip_id"], row["path"], row["dataset"], row["subject_id"], "", "", int(row["video_label"]), audio_label,
        int(row["label"]), row["category"], row["method"], row["split"], int(row["file_bytes"]),
    )  # fmt: skip


def _compare(
    indexes: Sequence[tuple[FeatureCache, Mapping[VariantAttributes, Backbone]]],
    arrays: Mapping[float, Mapping[str, Any]],
    *,
    position: int,
    column: int,
    params: Params,
    found: Sample,
) -> None:
    """Adds one row of every backbone to what was found, those with random weights included: they have view 0."""
    row, view = indexes[0][0].index.iloc[position], views_of(params.features)[column]
    where = f"clip {row['clip_id']} ({row['path']}), window from {row['start_s']:g} s, view {view}"
    if row["start_s"] not in arrays:
        found.problems.append(f"{where}: the clip has no such window today")
        return
    found.rows += 1
    of_variant = {v: (cache, b) for cache, backbones in reversed(indexes) for v, b in backbones.items()}
    for variant, (cache, backbone) in of_variant.items():
        if column >= cache.views + cache.pseudo or not cache.own(variant)[position, column]:
            continue
        stored = {name: arrays[row["start_s"]][name] for name in NEEDED[backbone.input]}
        windows = input_views(
            stored,
            backbone.input,
            clip_id=row["clip_id"],
            start_s=row["start_s"],
            views=[view],
            params=params.spectrograms,
        )
        again = run_backbone(backbone, windows, length=variant.length)
        cached = cache.read([position], list(again), views=[column])
        errors = {layer: relative_error(cached[layer][0].float(), torch.from_numpy(x)) for layer, x in again.items()}
        worst = max(errors, key=errors.__getitem__)
        found.largest_error = max(found.largest_error, errors[worst])
        if errors[worst] > LIMIT:
            found.problems.append(
                f"{where}: {worst} in the cache is off by {errors[worst]:.1e} of its largest value (limit {LIMIT:g})"
            )
            number = int(cache.rows(variant)[position, column])
            found.damaged.append((variant, number // cache.stored(variant).shard_rows))
