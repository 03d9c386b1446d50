"""What is refused of a bundle that somebody made up."""

import json
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from cache_schemas.stored_zip import BundleError
from pipeline.detector.bundle import make_bundle
from pipeline.detector.opened import open_bundle
from pipeline.workspace import Workspace
from tests.cache_schemas.small_bundle import manifest_of, members_of, raw_bundle
from tests.pipeline.detector.finished_run import resign, with_backbone


@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "mine.module:build",
        "onnx:/tmp/x.onnx#a",
        "hf-hub:a/b",
        "local-dir:/x",
        "transformers:a/b",
        "transformers:./x",
    ],
)
def test_a_bundle_chooses_no_code_and_no_address(
    run: Workspace, members: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    workspace = with_backbone(run, tmp_path, name=name)
    with pytest.raises(BundleError, match="bmnas predict --work"):
        make_bundle(workspace, tmp_path / "detector.bmnas")
    raw = forged(members, tmp_path, lambda opened: change_params(opened, name=name))
    with pytest.raises(BundleError, match=re.escape(f"backbone {name}")), opened_bytes(raw, tmp_path):
        pass


def opened_bytes(raw: bytes, folder: Path) -> object:
    (folder / "forged.bmnas").write_bytes(raw)
    return open_bundle(folder / "forged.bmnas")


def forged(members: dict[str, bytes], folder: Path, change: Callable[[Workspace], None]) -> bytes:
    """A bundle that is in itself all right, of somebody who changed what lies in it."""
    workspace = Workspace(folder / "forged")
    for name, data in members.items():
        (workspace.root / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace.root / name).write_bytes(data)
    change(workspace)
    resign(workspace)
    return raw_bundle(members_of(workspace.root))


def change_params(workspace: Workspace, **changes: object) -> None:
    path = workspace.retrain / "retrain.json"
    content = json.loads(path.read_text())
    content["params"]["features"]["visual"][0] |= changes
    path.write_text(json.dumps(content))


def change_entry(workspace: Workspace, **changes: object) -> None:
    path = workspace.retrain / "retrain.json"
    content = json.loads(path.read_text())
    entry = content["entries"][0]
    for name, value in changes.items():
        entry["spec"][name] = value
    path.write_text(json.dumps(content))


def change_section(workspace: Workspace, section: str, **changes: object) -> None:
    path = workspace.retrain / "retrain.json"
    content = json.loads(path.read_text())
    content["params"][section] |= changes
    path.write_text(json.dumps(content))


def change_evidence(workspace: Workspace, **changes: object) -> None:
    path = workspace.evaluate / "evidence.json"
    content = json.loads(path.read_text())
    content["systems"]["fusion"] |= changes
    path.write_text(json.dumps(content))


def unlike_of(workspace: Workspace, content: bytes) -> None:
    (workspace.evaluate / "unlike.safetensors").write_bytes(content)


def network_of(workspace: Workspace, content: bytes) -> None:
    (workspace.retrain / "fusion-0.safetensors").write_bytes(content)


PICKLE = pickle.dumps(print)
FORGERIES: dict[str, tuple[Callable[[Workspace], None], str]] = {
    "a pickle for a network": (lambda w: network_of(w, PICKLE), "what lies in it: "),
    "a header that ends nowhere": (lambda w: network_of(w, b"\xff" * 8 + b"{}"), "what lies in it: "),
    "a network of other tensors": (
        lambda w: network_of(w, safetensors.torch.save({"a": torch.zeros(1)})), r"safetensors: a is \[1\], .* None",
    ),
    "a network of another size": (lambda w: change_entry(w, channels=8), r"fusion-0\.safetensors: .* needs"),
    "a network that fills no memory": (lambda w: change_entry(w, channels=2**20), r"fusion-0\.safetensors: .* needs"),
    "no network at all": (lambda w: change_entry(w, channels="x"), "what lies in it: "),
    "another length": (lambda w: change_section(w, "features", length=7), "genotype, spec and params differ"),
    "a spectrogram that fills the memory": (
        lambda w: change_section(w, "spectrograms", hop_s=1e-9), "spectrograms of 4000000000 hops",
    ),
    "more points than samples": (lambda w: change_section(w, "spectrograms", n_fft=2**30), "1073741824 points"),
    "unknown parameters": (lambda w: change_params(w, evil=1), r"retrain\.json: unknown key features\.visual\.0\.evil"),
    "weights elsewhere": (
        lambda w: change_params(w, weights="file:/etc/passwd"), "weights file:/etc/passwd: a bundle has them in",
    ),
    "weights that are not there": (
        lambda w: change_params(w, weights="file:backbones/visual-0.safetensors"), "a bundle has them in",
    ),
    "distances that are no numbers": (
        lambda w: unlike_of(
            w, safetensors.torch.save({"visual.mean": torch.full((3,), torch.nan), "visual.whitening": torch.eye(3)},
            metadata={"layers": '{"visual": []}'}),
        ), "unlike.safetensors: visual: it holds what is no number",
    ),
    "an unknown limit": (
        lambda w: change_evidence(w, limits={"mood": 1.0}), r"evidence\.json: systems\.fusion\.limits: mood; allowed",
    ),
    "a curve that runs back": (
        lambda w: change_evidence(w, kind="isotonic", points=[[0.9, 0], [0.1, 1]]), "from low scores to high ones",
    ),
    "distances of no layers": (
        lambda w: unlike_of(w, safetensors.torch.save({"visual.mean": torch.zeros(3)})), r"unlike\.safetensors: ",
    ),
    "a pickle for distances": (lambda w: unlike_of(w, PICKLE), "what lies in it: "),
    "distances of another shape": (
        lambda w: unlike_of(
            w, safetensors.torch.save({"visual.mean": torch.zeros(3), "visual.whitening": torch.zeros(2, 2)},
            metadata={"layers": '{"visual": []}'}),
        ), "unlike.safetensors: visual",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_what_is_no_detector_is_refused_before_it_is_used(members: dict[str, bytes], tmp_path: Path, name: str) -> None:
    change, said = FORGERIES[name]
    raw = forged(members, tmp_path, change)
    with pytest.raises(BundleError, match=said) as found, opened_bytes(raw, tmp_path):
        pytest.fail("it was opened")
    assert str(found.value).startswith(str(tmp_path / "forged.bmnas"))
    assert "bmnas-detector-" not in str(found.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"networks": {"fusion": [0, 1, 2]}}, "networks"),
        ({"weights": "seed:1"}, "backbones"),
        ({"name": "resnet18"}, "backbones"),
        ({"weights_sha256": "2" * 64}, "backbones"),
        ({"modality": "audio"}, "backbones"),
    ],
)
def test_what_people_read_is_what_is_used(
    members: dict[str, bytes], made: Path, tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    with zipfile.ZipFile(made) as archive:
        manifest = json.loads(archive.read("bundle.json"))
    about = {name: manifest[name] for name in ("bmnas", "networks", "backbones")}
    if "networks" in changes:
        about |= changes
    else:
        about["backbones"][0] |= changes
    raw = raw_bundle(members, first=manifest_of(members, **about))
    with pytest.raises(BundleError, match=f"bundle.json and retrain.json differ: {said}"), opened_bytes(raw, tmp_path):
        pass


def test_evidence_of_other_networks_is_refused(members: dict[str, bytes], tmp_path: Path) -> None:
    content = json.loads(members["retrain/retrain.json"])
    content["entries"][0]["best_epoch"] = 99
    raw = raw_bundle(members | {"retrain/retrain.json": json.dumps(content).encode()})
    with pytest.raises(BundleError, match=r"evidence\.json is of other networks"), opened_bytes(raw, tmp_path):
        pass
