"""What is said where a package is not installed: which extra brings it; and what works all the same."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.pipeline.small_install import without

BUNDLES = Path(__file__).parents[1] / "detector" / "data"
TRAIN = "install bmnas with its extra `train` (docs/install.md)"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["search"], f"this command needs torch, which is not installed: {TRAIN}"),
        (
            ["predict", "a.mp4", "--bundle", str(BUNDLES / "format-1.bmnas")],
            f"this detector needs torch, which is not installed: {TRAIN}, or ask whoever made it for one that needs no "
            "torch (`bmnas bundle --onnx`)",
        ),
        (
            ["predict", "a.mp4", "--bundle", str(BUNDLES / "format-2.bmnas")],
            "this detector needs onnxruntime, which is not installed: install bmnas with its extra `predict` "
            "(docs/install.md)",
        ),
    ],
)
def test_a_missing_package_is_named_with_its_extra(arguments: list[str], said: str) -> None:
    done = without(*arguments, packages=("torch", "onnxruntime"))
    assert done.returncode == 1
    assert done.stderr.endswith(f"error: {said}\n")


def test_the_small_install_shows_what_a_bundle_is_worth() -> None:
    card = json.loads(without("bundle", "show", str(BUNDLES / "format-2.bmnas"), "--json").stdout)
    assert card["format"] == 2
    assert card["verdict"]
    assert [of["here"] for of in card["backbones"]] == [True, True]
    bare = without("bundle", "show", str(BUNDLES / "format-2.bmnas"), "--json", packages=("onnxruntime",))
    assert [of["why_not"] for of in json.loads(bare.stdout)["backbones"]] == [
        "it needs onnxruntime: install bmnas with its extra `predict` (docs/install.md)"
    ] * 2
    card = json.loads(without("bundle", "show", str(BUNDLES / "format-1.bmnas"), "--json").stdout)
    assert card["verdict"]
    assert {of["why_not"] for of in card["backbones"]} == {f"it needs torch: {TRAIN}"}


def test_the_small_install_is_examined() -> None:
    found = json.loads(without("doctor", "--json").stdout)
    assert "h264" in found["wall"]["codecs"]
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["device"] == "not known: torch is not installed"
    assert found["machine"]["ffmpeg_that_writes_clips"] == "not known: ffmpeg is not installed"


def test_the_small_install_says_what_several_workers_need() -> None:
    done = without("predict", "a.mp4", "--bundle", str(BUNDLES / "format-2.bmnas"), "--workers", "2")
    assert done.returncode == 2
    said = " ".join(done.stderr.replace("│", " ").split())
    assert f"several processes need Dask, which is not installed: leave it away, or {TRAIN}" in said


def test_the_version_is_told() -> None:
    assert without("--version").stdout == f"bmnas {version('bmnas')}\n"
