"""What is asked for is computed once, what cannot be is named, and a point is of the clips of its whole curve."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import safetensors.torch
import torch

import nas
from cache_schemas.features import FeatureCache
from cache_schemas.run import NETWORKS, RetrainEntry, RetrainRun, write_run
from cache_schemas.tables import read_table
from cache_schemas.windows import ClipWindows, Windowed
from pipeline import media
from pipeline.params import Params, ParamsError
from pipeline.robustness import stage
from pipeline.robustness.compute import Found, Wanted, compute_one
from pipeline.robustness.degrade import DEGRADATIONS
from pipeline.robustness.plan import Question, choose_clips, conditions_of, plan
from pipeline.robustness.scores import robustness
from pipeline.robustness.stage import run_robustness
from pipeline.runs.scoring import score_windows
from pipeline.shards.stage import StageError
from pipeline.statistics.systems import PROBE
from pipeline.workspace import Workspace
from tests.pipeline.clips import CODECS, make_clip

pytestmark = pytest.mark.usefixtures("few_draws")
Run = tuple[Workspace, Params]


@pytest.fixture
def trained(small_run: Run, tmp_path: Path) -> Run:
    """A workspace with the small run's cache and (untrained) networks of it, to write to."""
    done, params = small_run
    workspace = Workspace(tmp_path / "work")
    workspace.root.mkdir()
    for name in ("manifest", "windows", "quarantine", "features.zarr"):
        (workspace.root / name).symlink_to(done.root / name)
    cache = FeatureCache.open(workspace.features)
    entries = [_entry(workspace, cache, network, seed) for network in NETWORKS for seed in (0, 1)]
    run = RetrainRun(params=params.model_dump(mode="json"), backbones=cache.attributes["backbones"], entries=entries)
    write_run(workspace.retrain / "retrain.json", run)
    return workspace, params


def _entry(workspace: Workspace, cache: FeatureCache, network: Any, seed: int) -> RetrainEntry:
    names = [name for name in cache.layers if network in ("fusion", name.partition("/")[0])]
    cell = nas.Cell(x=names[0], y=names[-1], steps=(nas.Step(x="x", y="y", operation="Sum"),))
    genotype = nas.Genotype(cells=(cell,))
    torch.manual_seed(seed)
    compact = nas.CompactNetwork(genotype, cache.layers, channels=8, length=8)
    for name, buffer in compact.named_buffers():
        if name.endswith("running_mean"):  # else half of the features is to its layer norms as good as the whole
            buffer.uniform_(-1, 1)
    weights = f"{network}-{seed}.safetensors"
    workspace.retrain.mkdir(exist_ok=True)
    safetensors.torch.save_file(compact.state_dict(), workspace.retrain / weights)
    return RetrainEntry(
        network=network, seed=seed, genotype=genotype.model_dump(mode="json"), spec=compact.spec(), weights=weights,
        best_epoch=0, curves=[{"epoch": 0, "train_loss": 0.6, "val_loss": 0.6, "val_auc": 0.6}],
    )  # fmt: skip


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Wanted]:
    """All that is computed, in place of the media: the cache's own rows in what is degraded, halved."""
    done: list[Wanted] = []

    def halve(wanted: Wanted) -> str:
        done.append(wanted)
        modality = DEGRADATIONS[wanted.degradation].modality
        _cached(wanted, lambda name: 0.5 if modality in (name.partition("/")[0], "both") else None).write(wanted.file)
        return ""

    monkeypatch.setattr(stage, "compute_one", halve)
    return done


def _cached(wanted: Wanted, factor: Callable[[str], float | None]) -> Found:
    cache = FeatureCache.open(wanted.cache)
    rows = [row for row, clip_id in enumerate(cache.index["clip_id"]) if clip_id == wanted.clip.clip_id]
    layers = {name: x[0] * part for name, x in cache.read(rows).items() if (part := factor(name)) is not None}
    return Found(tuple(cache.index["start_s"].iloc[rows]), 4.0, layers)


def rows_of(workspace: Workspace) -> pd.DataFrame:
    return read_table(workspace.robustness / "scores.csv")


def test_every_system_scores_every_degraded_window(trained: Run, computed: list[Wanted]) -> None:
    workspace, params = trained
    result = run_robustness(workspace, params, Question(("blur", "mp3", "silence-kept"), (1, 3), 0))
    scores, table = rows_of(workspace), read_table(workspace.robustness / "robustness.csv")
    test = FeatureCache.open(workspace.features).index.query("split == 'test'")
    assert set(scores["system"]) == {*NETWORKS, PROBE}
    counts = scores.groupby(["degradation", "severity"]).size()
    assert set(counts) == {len(test) * 7}  # three networks of two seeds, and the probe
    assert list(counts.index) == [("blur", 1), ("blur", 3), ("mp3", 1), ("mp3", 3), ("none", 0), ("silence-kept", 1)]
    assert [(c["degradation"], [p["severity"] for p in c["severities"]]) for c in result["curves"]] == [
        ("blur", [1, 3]), ("mp3", [1, 3]), ("silence-kept", [1]),
    ]  # fmt: skip
    assert {point["clips"] for curve in result["curves"] for point in curve["severities"]} == {result["clips"]}
    assert len(table) == 4 * (3 + 3 + 2)
    assert result == json.loads((workspace.robustness / "robustness.json").read_text())
    assert "<svg" in (workspace.robustness / "robustness.svg").read_text()


def test_what_is_not_degraded_is_the_caches(trained: Run, computed: list[Wanted]) -> None:
    workspace, params = trained
    run_robustness(workspace, params, Question(("blur", "mp3"), (1,), 0))
    scores = rows_of(workspace).set_index(["system", "seed", "clip_id", "start_s"])
    clean = scores[scores["degradation"] == "none"]["score"]
    for name, same, other in (("blur", "audio", "visual"), ("mp3", "visual", "audio")):
        degraded = scores[scores["degradation"] == name]["score"]
        assert (degraded.loc[same] == clean.loc[same]).all()
        assert (degraded.loc[other] != clean.loc[other]).any()
        assert (degraded.loc["fusion"] != clean.loc["fusion"]).any()
        assert (degraded.loc[PROBE] != clean.loc[PROBE]).any()


def test_a_killed_run_repeats_nothing(trained: Run, computed: list[Wanted], monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, params = trained
    question, halve = Question(("blur",), (1, 2), 4), stage.compute_one

    def killed(wanted: Wanted) -> str:
        if len(computed) == 5:
            raise KeyboardInterrupt
        return halve(wanted)

    monkeypatch.setattr(stage, "compute_one", killed)
    with pytest.raises(KeyboardInterrupt):
        run_robustness(workspace, params, question)
    monkeypatch.setattr(stage, "compute_one", halve)
    first = run_robustness(workspace, params, question)
    assert len(computed) == 8
    assert len({(each.clip.clip_id, each.severity) for each in computed}) == 8
    assert run_robustness(workspace, params, question) == first
    assert len(computed) == 8
    run_robustness(workspace, params, replace(question, severities=(1, 2, 3)))
    assert len(computed) == 12


def test_a_damaged_result_is_computed_again(trained: Run, computed: list[Wanted]) -> None:
    workspace, params = trained
    run_robustness(workspace, params, Question(("blur",), (1,), 4))
    computed[2].file.write_bytes(b"half of it")
    run_robustness(workspace, params, Question(("blur",), (1,), 4))
    assert [each.clip.clip_id for each in computed[4:]] == [computed[2].clip.clip_id]


def test_a_clip_that_one_severity_lacks_is_in_none_of_that_curve_and_is_named(
    trained: Run, computed: list[Wanted], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, params = trained
    halve = stage.compute_one
    bad: list[Wanted] = []

    def fails_once(wanted: Wanted) -> str:
        if wanted.degradation == "blur" and wanted.severity == 2 and not bad:
            bad.append(wanted)
            return "the disk gave up"
        return halve(wanted)

    monkeypatch.setattr(stage, "compute_one", fails_once)
    result = run_robustness(workspace, params, Question(("blur", "noise"), (1, 2, 3), 4))
    clip = bad[0].clip
    assert result["left_out"] == [
        {"degradation": "blur", "clip_id": clip.clip_id, "path": clip.path, "reason": "1 px: the disk gave up"}
    ]
    assert [[p["clips"] for p in curve["severities"]] for curve in result["curves"]] == [[3, 3, 3], [4, 4, 4]]
    scores = rows_of(workspace)
    kept = set(scores[scores["degradation"] == "blur"]["clip_id"])
    assert kept == set(scores["clip_id"]) - {clip.clip_id}
    # The curve starts from the same clips as they are.
    alone = robustness(scores[scores["clip_id"].isin(kept)], [], seed=params.seed)
    assert result["curves"][0]["clean"] == alone["curves"][0]["clean"]
    assert result["curves"][0]["clean"] != result["curves"][1]["clean"]


def test_fewer_clips_are_as_many_real_as_fake_and_part_of_more() -> None:
    test = pd.DataFrame(
        {"clip_id": [f"c{i}" for i in range(30)], "clip_category": ["RVRA"] * 10 + ["FVRA", "RVFA"] * 10}
    )
    few, more, most = (set(choose_clips(test, count, seed=0)) for count in (6, 12, 26))
    assert few < more < most
    fakes = set(test["clip_id"][10:])
    assert [len(each - fakes) for each in (few, more, most)] == [3, 6, 10]
    assert choose_clips(test, 6, seed=1) != choose_clips(test, 6, seed=0)
    assert choose_clips(test, 0, seed=0) == list(test["clip_id"])


def test_a_question_names_what_is_allowed() -> None:
    assert conditions_of(Question.parse("mp3, silence-kept", "5,1", 0)) == [
        ("mp3", 1), ("mp3", 5), ("silence-kept", 1),
    ]  # fmt: skip
    with pytest.raises(ParamsError, match="--only mp4: allowed: h264, scale"):
        Question.parse("mp4", "1", 0)
    with pytest.raises(ParamsError, match="--severities 6: allowed: 1, 2, 3, 4, 5"):
        Question.parse("", "6", 0)


def test_a_cache_of_other_windows_or_code_is_refused(
    trained: Run, computed: list[Wanted], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, params = trained
    monkeypatch.setattr("pipeline.faces.stage._VERSION", 5)
    with pytest.raises(StageError, match="an older version of `bmnas faces` gave it"):
        run_robustness(workspace, params, Question(("blur",), (1,), 2))
    assert computed == []
    run_robustness(workspace, params, Question(("mp3",), (1,), 2))  # which leaves the pictures as they are
    monkeypatch.undo()
    text = workspace.windows.read_text()
    workspace.windows.parent.unlink()
    workspace.windows.parent.mkdir()
    workspace.windows.write_text(text.replace(",0.", ",1."))
    with pytest.raises(StageError, match="other windows or an older version of `bmnas spectrograms` gave it"):
        run_robustness(workspace, params, Question(("mp3",), (2,), 2))


def wanted_of(trained: Run, name: str, severity: int, folder: Path) -> list[Wanted]:
    """One condition's clips, with results in `folder`; severity 0: through all, but not degraded."""
    workspace, params = trained
    cache = FeatureCache.open(workspace.features)
    ids = choose_clips(cache.index.query("split == 'test'").assign(clip_category=cache.index["category"]), 2, seed=0)
    found = plan(workspace, params, cache, ids, Question((name,), (max(severity, 1),)))
    return [replace(each, severity=severity, file=folder / f"{name}-{each.clip.clip_id}") for each in found]


@pytest.mark.parametrize("name", ["blur", "mp3", "crop"])
def test_a_clip_that_nothing_is_done_to_has_the_features_that_it_has(trained: Run, tmp_path: Path, name: str) -> None:
    """Within 1e-3 of a layer's largest value and 1e-3 of P(fake), with the same windows."""
    workspace, _ = trained
    (wanted, *_) = wanted_of(trained, name, 0, tmp_path)
    assert compute_one(wanted) == ""
    found, clean = Found.read(wanted.file), _cached(wanted, lambda _: 1.0)
    assert found is not None
    assert found.reason == ""
    assert found.starts_s == clean.starts_s
    for layer, x in found.layers.items():
        before = clean.layers[layer].float()
        assert (x.float() - before).abs().max() <= 1e-3 * before.abs().max()
    run = RetrainRun.model_validate_json((workspace.retrain / "retrain.json").read_text())
    for entry in run.entries:
        ones = score_windows(workspace, entry, clean.layers, "cpu")
        others = score_windows(workspace, entry, {**clean.layers, **found.layers}, "cpu")
        assert abs(ones - others).max() < 1e-3


def test_a_degraded_picture_is_shown_when_the_original_was(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a clip without a rate, and from its first picture to the last window's end."""
    pace = "setpts='if(lt(N,10),N*0.04,0.4+(N-10)*0.1)/TB'"
    path = make_clip(tmp_path / "odd.mkv", "-vf", pace, "-fps_mode", "vfr", *CODECS["mkv"], seconds=2)
    times, seen = media.probe(path).times_s, dict[str, Any]()
    (wanted, *_) = wanted_of(trained, "h264", 3, tmp_path)
    windows = replace(wanted.windows, starts_s=(0.5, 1.5), available_s=1.0)

    def look(path: Path, windows: ClipWindows, params: Params, *, found: media.Probe) -> Windowed:
        seen.update(times_s=found.times_s, fps=found.fps, again=media.probe(path).times_s)
        return Windowed((), {})

    monkeypatch.setattr("pipeline.robustness.compute.file_faces", look)
    clip = replace(wanted.clip, path="odd.mkv", file_bytes=path.stat().st_size)
    data = wanted.params.data.model_copy(update={"root": str(tmp_path)})
    params = wanted.params.model_copy(update={"data": data})
    compute_one(replace(wanted, clip=clip, windows=windows, params=params))
    assert seen["times_s"].tolist() == times[times <= 2.5].tolist()
    assert seen["fps"] == media.probe(path).fps
    assert abs(seen["again"] - seen["times_s"]).max() > 0.1  # the container's own are even


def test_a_crop_is_shorter_and_inside_the_clip(trained: Run, tmp_path: Path) -> None:
    (wanted, *_) = wanted_of(trained, "crop", 5, tmp_path)
    assert compute_one(wanted) == ""
    found = Found.read(wanted.file)
    assert found is not None
    index = FeatureCache.open(wanted.cache).index
    duration = index[index["clip_id"] == wanted.clip.clip_id]["duration_s"].iloc[0]
    assert found.available_s <= 0.2 * duration + 1e-6
    assert 0 <= min(found.starts_s) <= max(found.starts_s) <= duration - found.available_s + 1e-6


def test_kept_silence_starts_at_the_clips_start(trained: Run, tmp_path: Path) -> None:
    (wanted, *_) = wanted_of(trained, "silence-kept", 1, tmp_path)
    assert compute_one(wanted) == ""
    found = Found.read(wanted.file)
    assert found is not None
    assert found.starts_s[0] == 0 < wanted.windows.starts_s[0]


def test_a_broken_clip_is_told_and_kept_only_where_its_content_is_at_fault(trained: Run, tmp_path: Path) -> None:
    (wanted, *_) = wanted_of(trained, "blur", 1, tmp_path)
    root = tmp_path / "clips"
    moved = replace(wanted, params=wanted.params.model_copy(
        update={"data": wanted.params.data.model_copy(update={"root": str(root)})}
    ))  # fmt: skip
    assert compute_one(moved) == "the file does not exist"
    path = root / wanted.clip.path
    path.parent.mkdir(parents=True)
    shutil.copy(Path(wanted.params.data.root) / wanted.clip.path, path)
    with path.open("r+b") as file:
        file.write(bytes(range(1, 200)))
    assert not moved.file.exists()
    assert compute_one(moved) == ""
    found = Found.read(moved.file)
    assert found is not None
    assert found.starts_s == ()
    assert found.reason


def test_a_piece_of_a_fake_without_anything_fake_is_not_asked_about(trained: Run, tmp_path: Path) -> None:
    wanted = next(each for each in wanted_of(trained, "crop", 5, tmp_path) if each.clip.label)
    end = wanted.windows.starts_s[-1] + wanted.windows.available_s
    clip = replace(
        wanted.clip, video_label=1, audio_label=0, video_segments=((end + 100, end + 101),), audio_segments=()
    )
    assert compute_one(replace(wanted, clip=clip)) == ""
    found = Found.read(wanted.file)
    assert found is not None
    assert found.reason == "its fake seconds are not in the piece"
