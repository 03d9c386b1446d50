"""Pretraining on one modality: it learns, it is repeatable, and what it writes is a backbone's weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch

from cache_schemas.manifest import Clip, category_of
from pipeline.backbones import load_backbone
from pipeline.backbones.base import weights_sha256
from pipeline.features import pretrain
from pipeline.features.pretrain import PretrainError, run_pretrain
from pipeline.features.windows import WindowSource
from pipeline.params import BackboneParams, Params, parse_params
from pipeline.workspace import Workspace

NET = "test_efficientnet"  # timm's smallest


def params_for(*modalities: str, **changes: object) -> Params:
    content = {m: {"name": NET, "weights": "seed:0"} for m in modalities}
    more = {"epochs": 4, "batch_size": 4, "learning_rate": 3e-3, **changes}
    return parse_params({"pretrain": content | more, "compute": {"device": "cpu"}}, source="test")


def clip(i: int, split: str, video: int, audio: int | None) -> Clip:
    label = int(bool(video or audio))
    return Clip(
        f"c{i}", f"{i}.mp4", "made-up", f"s{i}", "", "", video, audio, label, category_of(video, audio), "", split, 1
    )


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Windows whose fake pictures are striped and whose fake sounds have a gap; gives the splits that are read."""
    splits = ["train"] * 16 + ["val"] * 8 + ["test"] * 4
    clips = [clip(i, split, i % 2, i // 2 % 2) for i, split in enumerate(splits)]
    sources = [
        WindowSource(c, 0, 0.0, (Path("faces"), i), (Path("sound"), i), "", {"available_s": 4.0, "has_audio": True})
        for i, c in enumerate(clips)
    ]
    read: list[str] = []

    def pixels(where: tuple[Path, int], _schema: object, name: str) -> torch.Tensor:
        i = where[1]
        read.append(splits[i])
        g = torch.Generator().manual_seed(i)
        if name == "crops":
            crops = torch.randint(0, 100, (2, 32, 32, 3), generator=g)
            crops[:, ::4] += 100 * (i % 2)
            return crops.to(torch.uint8)
        sound = torch.randn(32, 48, generator=g)
        sound[8:16] -= 4 * (i // 2 % 2)
        return sound

    monkeypatch.setattr(pretrain, "window_sources", lambda *_: sources)
    monkeypatch.setattr(pretrain, "_read", pixels)
    return read


@pytest.mark.parametrize("modality", ["visual", "audio"])
def test_it_learns_its_own_modalitys_label(modality: str, drawn: list[str], tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    (entry,) = run_pretrain(workspace, params_for(modality))
    assert entry.val_auc == 1.0
    assert entry.curves[-1]["train_loss"] < 0.75 * entry.curves[0]["train_loss"]
    assert set(drawn) == {"train", "val"}  # test is not looked at
    written = json.loads((workspace.pretrain / "pretrain.json").read_text())
    assert written["entries"][0]["curves"] == entry.curves
    with torch.random.fork_rng():
        torch.manual_seed(0)
        start = timm.create_model(NET, num_classes=1, in_chans=3 if modality == "visual" else 1)
    assert entry.start == {"weights": "seed:0", "weights_sha256": weights_sha256(start)}


def test_the_best_epoch_on_val_is_kept(drawn: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aucs = iter([(0.5, 0.6), (0.4, 0.8), (0.3, 0.8), (0.2, 0.7)])  # (loss, AUC) of each epoch
    states: list[dict[str, torch.Tensor]] = []
    state = pretrain._Trainer.state

    def judge(self: Any, *_: object) -> tuple[float, float]:
        states.append(state(self))
        return next(aucs)

    monkeypatch.setattr(pretrain._Trainer, "judge", judge)
    workspace = Workspace(tmp_path)
    (entry,) = run_pretrain(workspace, params_for("visual"))
    assert (entry.best_epoch, entry.val_auc) == (2, 0.8)
    written = safetensors.torch.load_file(workspace.pretrain / entry.weights)
    assert all(torch.equal(x, states[2][name]) for name, x in written.items())
    assert not all(torch.equal(x, states[3][name]) for name, x in written.items())


def test_the_same_seed_writes_the_same_bytes(drawn: list[str], tmp_path: Path) -> None:
    runs = [Workspace(tmp_path / name) for name in "ab"]
    for i, workspace in enumerate(runs):
        torch.manual_seed(i)  # of no influence
        run_pretrain(workspace, params_for("visual", epochs=2))
    for name in ("visual.safetensors", "pretrain.json"):
        assert len({(workspace.pretrain / name).read_bytes() for workspace in runs}) == 1


class KilledError(Exception):
    """Stands for the end of the process: nothing of the product catches it."""


def test_an_interrupted_training_goes_on_to_the_same_bytes(
    drawn: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed within the third epoch of the second modality; whatever draws random numbers on the way draws the same."""
    read = pretrain._read

    def noisy(*where: Any) -> torch.Tensor:
        if len(drawn) == left:
            raise KilledError
        pixels = read(*where)
        return pixels + (5 * torch.randn(pixels.shape)).to(pixels.dtype)

    monkeypatch.setattr(pretrain, "_read", noisy)
    params, epoch = params_for("visual", "audio", epochs=5), 16 + 8
    whole, killed = Workspace(tmp_path / "whole"), Workspace(tmp_path / "killed")
    left = -1
    run_pretrain(whole, params)
    drawn.clear()
    left = 5 * epoch + 2 * epoch + 7
    with pytest.raises(KilledError):
        run_pretrain(killed, params)
    drawn.clear()
    left = -1
    torch.manual_seed(1)  # of no influence
    (killed.pretrain / ".audio.progress.safetensors.x.tmp").touch()
    run_pretrain(killed, params)
    assert len(drawn) == 3 * epoch
    files = {path.name: path.read_bytes() for path in whole.pretrain.iterdir()}
    assert files.keys() == {"visual.safetensors", "audio.safetensors", "pretrain.json"}
    assert {path.name: path.read_bytes() for path in killed.pretrain.iterdir()} == files


def test_what_is_finished_is_trained_again_only_when_something_changed(drawn: list[str], tmp_path: Path) -> None:
    workspace, epoch = Workspace(tmp_path), 16 + 8

    def windows_read(*modalities: str, **changes: object) -> int:
        drawn.clear()
        run_pretrain(workspace, params_for(*modalities, epochs=1, **changes))
        return len(drawn)

    assert windows_read("visual") == epoch
    assert windows_read("visual", "audio") == epoch
    assert windows_read("visual", "audio") == 0
    assert windows_read("visual", "audio", learning_rate=1e-3) == 2 * epoch
    weights = workspace.pretrain / "audio.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert windows_read("visual", "audio", learning_rate=1e-3) == epoch
    assert windows_read("visual", learning_rate=1e-3) == 0
    assert not weights.exists()


def test_both_modalities_and_then_none(drawn: list[str], tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    run_pretrain(workspace, params_for("visual", "audio", epochs=1))
    names = {path.name for path in workspace.pretrain.iterdir()}
    assert names == {"visual.safetensors", "audio.safetensors", "pretrain.json"}
    drawn.clear()
    assert run_pretrain(workspace, Params()) == []
    assert [path.name for path in workspace.pretrain.iterdir()] == ["pretrain.json"]
    assert not drawn  # the default costs nothing


@pytest.mark.parametrize("modality", ["visual", "audio"])
def test_the_weights_are_a_backbones(modality: Any, drawn: list[str], tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    run_pretrain(workspace, params_for(modality, epochs=2))
    file = workspace.pretrain / f"{modality}.safetensors"
    ours = load_backbone(modality, BackboneParams(name=NET, weights=f"file:{file}"), "cpu")
    state = safetensors.torch.load_file(file)
    loaded = ours.net
    reference = timm.create_model(NET, num_classes=1, in_chans=3 if modality == "visual" else 1).eval()
    reference.load_state_dict(state)
    x = torch.randn(1, 3 if modality == "visual" else 1, 64, 64)
    with torch.inference_mode():
        maps = reference.forward_intermediates(x, indices=4, intermediates_only=True)
        for a, b in zip(loaded(x), maps, strict=True):
            assert torch.allclose(a, b, atol=1e-4 * float(b.abs().max()))


def test_it_starts_from_a_file_without_a_head(drawn: list[str], tmp_path: Path) -> None:
    state = {n: x for n, x in timm.create_model(NET).state_dict().items() if not n.startswith("classifier")}
    safetensors.torch.save_file(state, tmp_path / "start.safetensors")
    params = params_for("visual", epochs=1, visual={"name": NET, "weights": f"file:{tmp_path / 'start.safetensors'}"})
    (entry,) = run_pretrain(Workspace(tmp_path / "work"), params)
    assert entry.start["weights"].startswith("file:")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"visual": {"name": "inflated:resnet50"}}, "only timm networks can be trained"),
        ({"learning_rate": 1e30, "visual": {"name": NET, "weights": "seed:0"}}, "lower pretrain.learning_rate"),
    ],
)
def test_errors_say_what_to_do(change: dict[str, Any], error: str, drawn: list[str], tmp_path: Path) -> None:
    with pytest.raises(PretrainError, match=error):
        run_pretrain(Workspace(tmp_path), params_for(**change))


@pytest.mark.parametrize(("video", "audio"), [(0, 1), (0, None)])
def test_a_split_of_one_class_is_refused(
    video: int, audio: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clips without sound have no audio label: they are left out, not taken for real ones."""
    clips = [clip(i, split, video, audio) for i, split in enumerate(["train", "train", "val"])]
    sources = [
        WindowSource(c, 0, 0.0, (Path("f"), 0), (Path("s"), 0), "", {"available_s": 4.0, "has_audio": True})
        for c in clips
    ]
    monkeypatch.setattr(pretrain, "window_sources", lambda *_: sources)
    with pytest.raises(PretrainError, match=f"the train split has {0 if audio is None else 2} usable windows"):
        run_pretrain(Workspace(tmp_path), params_for("audio"))
