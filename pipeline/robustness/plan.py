"""What `bmnas robustness` computes: which clips, under which conditions, and where each result is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from cache_schemas.features import FeatureCache, VariantAttributes
from cache_schemas.files import digest
from cache_schemas.manifest import Clip, read_manifest
from cache_schemas.media import read_windows
from cache_schemas.windows import ClipWindows
from pipeline.faces.stage import face_key, windows_digest
from pipeline.features.recompute import backbones_of, params_of
from pipeline.features.stage import row_keys
from pipeline.features.windows import WindowSource
from pipeline.params import Params, ParamsError
from pipeline.robustness.compute import Wanted
from pipeline.robustness.degrade import DEGRADATIONS, SEVERITIES
from pipeline.shards.stage import StageError
from pipeline.sound.stage import spectrogram_key
from pipeline.statistics.tables import clips as one_a_clip
from pipeline.workspace import Workspace

_VERSION = 1  # raise it when the same degradation and setting give other values


@dataclass(frozen=True)
class Question:
    """What is asked for; clips: at most so many, as many real as fake, 0: all of the test split."""

    only: tuple[str, ...] = tuple(DEGRADATIONS)
    severities: tuple[int, ...] = SEVERITIES
    clips: int = 0

    @classmethod
    def parse(cls, only: str, severities: str, clips: int) -> Question:
        """As the command line says it, separated by commas; raises ParamsError with what is allowed."""
        names = tuple(dict.fromkeys(filter(None, map(str.strip, only.split(","))))) or tuple(DEGRADATIONS)
        levels = tuple(sorted({part.strip() for part in severities.split(",") if part.strip()})) or ("",)
        for given, allowed, option in (
            (names, tuple(DEGRADATIONS), "--only"),
            (levels, tuple(map(str, SEVERITIES)), "--severities"),
        ):
            wrong = next((each for each in given if each not in allowed), None)
            if wrong is not None:
                raise ParamsError(f"command line: {option} {wrong}: allowed: {', '.join(allowed)}")
        return cls(tuple(name for name in DEGRADATIONS if name in names), tuple(map(int, levels)), clips)


def conditions_of(question: Question) -> list[tuple[str, int]]:
    """(degradation, severity) in order; a degradation with fewer settings has those severities only."""
    return [
        (name, severity)
        for name in question.only
        for severity in question.severities
        if severity <= len(DEGRADATIONS[name].values)
    ]


def choose_clips(test: pd.DataFrame, most: int, *, seed: int) -> list[str]:
    """Clips of a test split's windows, in their order: all, or `most`, as many real as fake as far as there are.

    The choice of fewer is part of the choice of more.
    """
    fake = one_a_clip(test)["label"] == 1
    if not most or most >= len(fake):
        return list(fake.index)
    order = sorted(fake.index, key=lambda clip_id: digest("robustness", seed, clip_id))
    reals, fakes = ([clip_id for clip_id in order if fake[clip_id] == side] for side in (False, True))
    n_real = min(len(reals), max(most // 2, most - len(fakes)))
    kept = {*reals[:n_real], *fakes[: most - n_real]}
    return [clip_id for clip_id in fake.index if clip_id in kept]


def plan(
    workspace: Workspace, params: Params, cache: FeatureCache, clip_ids: Sequence[str], question: Question
) -> list[Wanted]:
    """Every clip under every condition, but for the sound of clips that have none: it cannot be degraded.

    Raises StageError where the cache's rows of what is degraded are not what the stages would give today: points would
    differ from the clips as they are by more than their degradation.
    """
    params = params_of(cache, params)
    backbones = {
        variant: [backbone.identity(), list(backbone.layers), variant.length, variant.dtype]
        for variant, backbone in backbones_of(cache, params).items()
    }
    stages = {"visual": face_key(params), "audio": spectrogram_key(params)}
    clips = {clip.clip_id: clip for clip in read_manifest(workspace.manifest)}
    windows = read_windows(workspace.windows)
    anew = {DEGRADATIONS[name].modality for name in question.only}
    for variant in cache.variants:
        if anew & {variant.modality, "both"}:
            _check_rows(workspace, params, cache, variant, clips=[clips[i] for i in clip_ids], windows=windows)
    mute = set(cache.index.loc[~cache.index["has_audio"], "clip_id"])
    wanted = []
    for name, severity in conditions_of(question):
        degradation = DEGRADATIONS[name]
        made_by = [
            [stages[variant.modality], told]
            for variant, told in backbones.items()
            if degradation.modality in (variant.modality, "both")
        ]
        for clip_id in clip_ids:
            if degradation.modality == "audio" and clip_id in mute:
                continue
            seed = int(digest("robustness", params.seed, clip_id, name), 16) % 2**31
            told = [clip_id, windows_digest(windows[clip_id]), seed, name, degradation.values[severity - 1]]
            key = digest("robustness", _VERSION, told, made_by, digits=32)
            file = workspace.runs.resolve() / "robustness" / name / f"{clip_id}-{key}.safetensors"
            cache_path = workspace.features.resolve()
            wanted.append(Wanted(clips[clip_id], windows[clip_id], name, severity, seed, file, cache_path, params))
    return wanted


def _check_rows(
    workspace: Workspace,
    params: Params,
    cache: FeatureCache,
    variant: VariantAttributes,
    *,
    clips: Sequence[Clip],
    windows: Mapping[str, ClipWindows],
) -> None:
    """Raises StageError where windows.csv or the code of a stage is another than when the cache was made."""
    of_clip = {clip.clip_id: clip for clip in clips}
    rows, nowhere = [row for row, i in enumerate(cache.index["clip_id"]) if i in of_clip], (workspace.root, 0)
    sources = []
    for clip_id, start in cache.index.iloc[rows][["clip_id", "start_s"]].itertuples(index=False, name=None):
        found = windows.get(clip_id)
        plan = windows_digest(found) if found and start in found.starts_s else ""
        sources.append(WindowSource(of_clip[clip_id], 0, start, nowhere, nowhere, plan, {}))
    today = row_keys(variant, sources, params, [0])
    stored = [bytes(key).hex() for key in cache.row_keys(variant)[rows, 0]]
    differs = (s for s, one, two in zip(sources, today, stored, strict=True) if one != two or not s.plan)
    other = next(differs, None)
    if other is not None:
        stage = "faces" if variant.modality == "visual" else "spectrograms"
        raise StageError(
            f"robustness: {cache.path} holds {other.clip.path} as other windows or an older version of `bmnas {stage}` "
            "gave it: run `bmnas spectrograms`, `bmnas faces` and `bmnas features` again, then search and retrain"
        )
