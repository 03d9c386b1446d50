"""Cheats planted in a whole run, each named by evaluate; an honest run has no finding. And looks at its test split."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch

import nas
from cache_schemas.features import FeatureCache
from cache_schemas.manifest import Clip, read_manifest, write_manifest
from cache_schemas.run import RetrainRun, read_run, write_run
from pipeline.runs.cache import Source
from pipeline.runs.evaluate import evaluate
from pipeline.runs.looks import often
from pipeline.runs.retrain import run_retrain
from pipeline.runs.search import run_search
from pipeline.workspace import Workspace
from tests.pipeline.run_fixture import make_index, make_workspace
from tests.pipeline.small_experiments import RETRAIN, small

PARAMS = small(seeds=[0, 1], retrain=RETRAIN | {"epochs": 6}, features={"pseudo": 0})
CHECKS = [
    "leading silence", "resolution", "other properties", "a person in two splits", "a donor in two splits",
    "epoch chosen on test", "random weights score", "one file in two splits", "test clips among train",
]  # fmt: skip


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Searched and trained. Read it only."""
    workspace = make_workspace(tmp_path_factory.mktemp("honest"), make_index(), pseudo=0)
    run_search(workspace, PARAMS)
    run_retrain(workspace, PARAMS)
    return workspace


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the networks are scored, and nothing is measured: that is others' to test."""
    monkeypatch.setattr("pipeline.runs.evaluate.control_scores", lambda source: {})
    monkeypatch.setattr(
        "pipeline.runs.evaluate.measure", lambda clips, scores, seed: {"summary": {}, "calibration": None}
    )


@pytest.fixture
def workspace(honest: Workspace, tmp_path: Path) -> Workspace:
    """A copy, to cheat in."""
    shutil.copytree(honest.root, tmp_path / "work")
    return Workspace(tmp_path / "work")


def findings(workspace: Workspace) -> dict[str, str]:
    """{check: what it says} of those that found something."""
    result = evaluate(workspace, PARAMS, device="cpu")
    assert [each["check"] for each in result["audit"]] == CHECKS
    return {each["check"]: each["says"] for each in result["audit"] if each["found"]}


def test_an_honest_run_has_no_finding(workspace: Workspace) -> None:
    assert findings(workspace) == {}


def test_nor_has_one_that_learnt_from_pseudo_fakes(tmp_path: Path) -> None:
    """They are fakes of train: classes weigh otherwise in the loss of networks that hear, and in no other's."""
    workspace, params = make_workspace(tmp_path / "work", make_index(), pseudo=2), small(features={"pseudo": 2})
    run_search(workspace, params)
    run_retrain(workspace, params)
    result = evaluate(workspace, params, device="cpu")
    assert not any(each["found"] for each in result["audit"])


def cheat_by_epoch(workspace: Workspace) -> tuple[RetrainRun, int, int]:
    """Puts weights into the run whose epoch was chosen on test; (the run, which entry, that epoch)."""
    run = read_run(workspace.retrain / "retrain.json", RetrainRun)
    windows = Source.of(workspace, PARAMS).windows()
    swapped = [{"val": "test", "test": "val"}.get(side, side) for side in windows.split]
    for place, entry in enumerate(run.entries):
        genotype = nas.Genotype.model_validate(entry.genotype)
        found = nas.retrain(windows.features, windows.labels, swapped, genotype, PARAMS.retrain, (entry.seed,))[0]
        if found.best_epoch != entry.best_epoch:
            tensors = {name: tensor.contiguous() for name, tensor in found.network.state_dict().items()}
            safetensors.torch.save_file(tensors, workspace.retrain / entry.weights)
            return run, place, found.best_epoch
    raise AssertionError("val and test agree about every epoch: nothing to cheat with")


@pytest.mark.parametrize("said", [False, True])
def test_an_epoch_chosen_on_test_is_named_said_or_not(workspace: Workspace, said: bool) -> None:
    run, place, epoch = cheat_by_epoch(workspace)
    entry = run.entries[place]
    if said:
        entries = [*run.entries[:place], entry.model_copy(update={"best_epoch": epoch}), *run.entries[place + 1 :]]
        write_run(workspace.retrain / "retrain.json", run.model_copy(update={"entries": entries}))
    found = findings(workspace)
    assert list(found) == ["epoch chosen on test"]
    says = found["epoch chosen on test"]
    assert says.startswith(f"{entry.network}, seed {entry.seed}: ")
    assert says.endswith("its epoch was chosen by something else than val")
    kept = f"epoch {epoch} was kept"
    assert (kept in says) == said
    assert ("which they should be of" in says) != said


def changed_manifest(workspace: Workspace, change: Callable[[Clip], Clip]) -> None:
    write_manifest(workspace.manifest, [change(clip) for clip in read_manifest(workspace.manifest)])


def test_a_person_who_only_lends_a_face_to_another_split_is_named(workspace: Workspace) -> None:
    """s00 is in train; a test fake has their face."""
    changed_manifest(
        workspace,
        lambda clip: replace(clip, split_kind="official", source_id="s00" if clip.clip_id == "s04-FVRA" else ""),
    )
    found = findings(workspace)
    assert list(found) == ["a donor in two splits"]
    assert "official split: 1 donors leak" in found["a donor in two splits"]
    assert "(1 in train and test): s00; what is learnt of them can pass for skill" in found["a donor in two splits"]


def test_a_file_in_two_splits_is_named(workspace: Workspace) -> None:
    changed_manifest(workspace, lambda clip: replace(clip, path="s00/RVRA.mp4") if clip.clip_id == "s04-RVRA" else clip)
    assert list(findings(workspace)) == ["one file in two splits"]


def test_a_file_under_another_name_in_another_split_is_named(tmp_path: Path) -> None:
    """A remuxed file has other bytes, and the same pictures: so, to the bit, the same features."""
    found = findings(make_workspace(tmp_path, make_index(), seeds=[0], copies={"s04-RVRA": "s00-RVRA"}, pseudo=0))
    assert list(found) == ["one file in two splits"]
    assert "s00/RVRA.mp4 (train) and s04/RVRA.mp4 (test)" in found["one file in two splits"]


@pytest.mark.parametrize(
    ("column", "value", "check", "says"),
    [
        ("leading_silence_s", 0.4, "leading silence", "leading silence alone tells fake sound from real with"),
        ("height_px", 256, "resolution", "picture height alone tells fake sound from real with an AUC of 1.00"),
    ],
)
def test_a_property_that_tells_the_label_is_named(
    tmp_path: Path, column: str, value: float, check: str, says: str
) -> None:
    index = make_index(windows=1)
    fake_sound = index["clip_category"].str.endswith("FA")
    index[column] = index[column].mask(fake_sound, value)
    found = findings(make_workspace(tmp_path, index, seeds=[0], pseudo=0))
    assert list(found) == [check]
    assert says in found[check]


def test_features_of_random_weights_that_score_are_named(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = FeatureCache.open(workspace.features).index["label"].to_numpy(float)
    random = np.random.default_rng(0)

    def controls(source: Source) -> dict[str, Any]:
        return {"random weights": 1 / (1 + np.exp(-(4 * labels - 2 + random.normal(size=len(labels)))))}

    monkeypatch.setattr("pipeline.runs.evaluate.control_scores", controls)
    found = findings(workspace)
    assert list(found) == ["random weights score"]
    assert "can be read without anything learnt of faces or voices" in found["random weights score"]


def test_networks_of_another_cache_are_not_checked_by_val(workspace: Workspace) -> None:
    cheat_by_epoch(workspace)
    path = workspace.retrain / "retrain.json"
    write_run(path, read_run(path, RetrainRun).model_copy(update={"cache": ""}))
    result = evaluate(workspace, PARAMS, device="cpu")
    found = {each["check"]: each for each in result["audit"]}
    for check in ("epoch chosen on test", "test clips among train"):
        assert not found[check]["found"]
        assert "not checked: " in found[check]["says"]


def test_looks_are_counted_by_the_networks_that_were_scored(workspace: Workspace) -> None:
    """The same again is the same look; other settings are another, without anybody having to say so."""
    first = evaluate(workspace, PARAMS, device="cpu")
    assert {key: first["looks"][key] for key in ("times", "by")} == {"times": 1, "by": {"evaluate": 1}}
    written = (workspace.evaluate / "metrics.json").read_bytes()
    shutil.rmtree(workspace.evaluate)
    assert evaluate(workspace, PARAMS, device="cpu")["looks"] == first["looks"]
    assert (workspace.evaluate / "metrics.json").read_bytes() == written
    run_retrain(workspace, PARAMS)
    assert evaluate(workspace, PARAMS, device="cpu")["looks"]["times"] == 1, "trained again as it was"
    other = PARAMS.model_copy(update={"retrain": PARAMS.retrain.model_copy(update={"dropout": 0.5})})
    run_retrain(workspace, other)
    again = evaluate(workspace, other, device="cpu")
    assert again["looks"]["times"] == 2
    assert often(first["looks"]) == []
    (text,) = often(again["looks"])
    assert text.startswith("This test set has been looked at 2 times (evaluate 2): figures drift upwards")
