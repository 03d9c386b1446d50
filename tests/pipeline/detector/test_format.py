"""Bundles that were written long ago, by each format that there ever was, are still good."""

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cache_schemas.bundle import VERSION, Manifest
from cache_schemas.run import RetrainRun, read_run
from cache_schemas.stored_zip import BundleError
from pipeline.detector.card import bundle_card
from pipeline.detector.opened import open_bundle
from pipeline.detector.parts import load_parts
from pipeline.params import Params
from pipeline.runs.kept import kept_evidence
from pipeline.runs.scoring import score_windows
from tests.cache_schemas.small_bundle import manifest_of, members_of, raw_bundle

DATA = Path(__file__).parent / "data"
FORMAT_1 = DATA / "format-1.bmnas"
"""One network of two channels on EfficientNet-Lite0 with the weights of seed 1; made-up results; signed by KEY."""
FORMAT_2 = DATA / "format-2.bmnas"
"""The same, unsigned; the networks' graph is true, the others are of one node each."""
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32))).public_key().public_bytes_raw()


def test_there_is_a_bundle_of_every_format() -> None:
    assert {path.name for path in DATA.iterdir()} == {f"format-{i + 1}.bmnas" for i in range(VERSION)}


def test_a_detector_of_format_1_gives_the_scores_that_it_gave() -> None:
    with open_bundle(FORMAT_1, public_key=KEY) as workspace:
        (entry,) = read_run(workspace.retrain / "retrain.json", RetrainRun).entries
        shape = (3, 2, 4)  # windows, L, C_in
        values = torch.arange(24.0).view(shape) / 10 - 1
        features = dict.fromkeys(entry.spec["in_channels"], values)
        assert score_windows(workspace, entry, features, "cpu").tolist() == pytest.approx(
            [0.3694, 0.4018, 0.3913], abs=1e-4
        )
        evidence, familiar = kept_evidence(workspace)
        assert (evidence.systems["fusion"].low, evidence.systems["fusion"].high) == (-0.5, 0.75)
        assert familiar["visual"].layers == ("visual/tf_efficientnet_lite0.blocks.6",)


def test_what_is_written_today_is_of_the_newest_format() -> None:
    """A field more or less is another format."""
    found = json.loads(re.search(rb"\{.*?\n\}\n", FORMAT_2.read_bytes(), re.DOTALL).group())  # type: ignore[union-attr]
    assert found.keys() == Manifest.model_fields.keys()
    assert found["version"] == VERSION


def test_a_detector_of_format_2_gives_the_scores_that_it_gave() -> None:
    """By onnxruntime; they are those of format 1, whose networks it has."""
    pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed (extra predict)")
    with open_bundle(FORMAT_2) as workspace:
        run = read_run(workspace.retrain / "retrain.json", RetrainRun)
        parts = load_parts(workspace, run, Params.model_validate(run.params))
        assert [(each.modality, each.input) for each in parts.backbones] == [
            ("visual", "crops"),
            ("audio", "spectrogram"),
        ]
        ((_, network),) = parts.networks
        values = np.arange(24, dtype=np.float32).reshape(3, 2, 4) / 10 - 1
        found = network(dict.fromkeys(run.entries[0].spec["in_channels"], values))
        assert found.tolist() == pytest.approx([0.3694, 0.4018, 0.3913], abs=1e-4)
    assert all(of["here"] for of in bundle_card(FORMAT_2)["backbones"])


@pytest.mark.parametrize("missing", ["onnx/mtcnn-o.onnx", "onnx/visual-0.onnx", "onnx/networks.onnx"])
def test_a_detector_of_format_2_has_all_graphs(tmp_path: Path, missing: str) -> None:
    with open_bundle(FORMAT_2) as workspace:
        members = members_of(workspace.root)
    with zipfile.ZipFile(FORMAT_2) as archive:
        said = json.loads(archive.read("bundle.json"))
    for version, gone in ((2, missing), (1, "")):
        kept = {name: data for name, data in members.items() if name != gone}
        first = manifest_of(kept, version=version, networks=said["networks"], backbones=said["backbones"])
        path = tmp_path / f"{version}.bmnas"
        path.write_bytes(raw_bundle(kept, first=first))
        with (
            pytest.raises(BundleError, match="all graphs of a detector of version 2, and none in version 1"),
            open_bundle(path),
        ):
            pass


def test_the_card_says_what_it_is_and_what_it_is_worth() -> None:
    card = bundle_card(FORMAT_1, public_key=KEY)
    assert card["networks"] == {"fusion": [0]}
    assert card["signature"] == {"public_key": KEY.hex(), "checked": True}
    assert card["parameters"] > 40
    assert "0.900 (0.800 to 0.950) on other people" in card["verdict"]
    assert "0.700 (0.600 to 0.800) on sources never seen" in card["verdict"]
    assert "methods of forgery never seen was not measured" in card["verdict"]
    assert card["headline"].startswith("On 50 test clips of 25 people")
    assert card["test"] == {"clips": 50, "subjects": 25, "real_clips": 20, "fake_clips": 30}
    drawn, small = card["warnings"]
    assert "clips that this program drew" in drawn
    assert small == "The test split holds 50 clips."
    assert card["limits"] == {
        "fusion": {"log10_lr": [-0.5, 0.75], "threshold": 0.5, "by": "20 real and 30 fake validation clips"}
    }
    assert [(of["name"], of["weights"]) for of in card["backbones"]] == [("tf_efficientnet_lite0", "seed:1")] * 2
    assert json.loads(json.dumps(card)) == card
    assert bundle_card(FORMAT_1)["signature"] == {"public_key": KEY.hex(), "checked": False}


def test_the_card_says_whether_the_backbones_are_here(tmp_path: Path) -> None:
    """The fixture's identity is too short to be the same; of a name that is not there, timm's own words stand there."""
    for of in bundle_card(FORMAT_1)["backbones"]:
        assert (of["here"], of["why_not"]) == (False, "what is installed here has other weights or code")


@pytest.mark.parametrize("content", [{"schema_version": 2, "headline": {}}, {"schema_version": 1, "headline": None}])
def test_results_of_another_kind_are_refused(tmp_path: Path, content: dict[str, object]) -> None:
    with open_bundle(FORMAT_1) as workspace:
        members = members_of(workspace.root)
    path = tmp_path / "forged.bmnas"
    members["evaluate/metrics.json"] = json.dumps(content).encode()
    with zipfile.ZipFile(FORMAT_1) as archive:
        said = json.loads(archive.read("bundle.json"))
    first = manifest_of(members, networks=said["networks"], backbones=said["backbones"])
    path.write_bytes(raw_bundle(members, first=first))
    with pytest.raises(BundleError, match="its results: "):
        bundle_card(path)
