"""Backbones and the face detector on the device give what they give on the CPU."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.backbones import load_backbone
from pipeline.compute.ahead import several_at_once
from pipeline.faces.mtcnn import Mtcnn
from pipeline.faces.networks import torch_networks
from pipeline.features.forward import run_backbone
from pipeline.params import BackboneParams
from tests.pipeline.moving_face import noisy, scene, with_face

Record = Callable[[str, object], None]
LENGTH = 4


def windows(modality: str) -> Iterator[NDArray[Any]]:
    """Eleven of random crops or spectrograms: more than one pass, and the last one is filled up."""
    random = np.random.default_rng(0)
    for _ in range(11):
        if modality == "visual":
            yield random.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
        else:
            yield random.normal(-6, 3, (64, 96)).astype(np.float32)


def rows(modality: str, device: str, name: str, precision: str) -> dict[str, NDArray[np.float32]]:
    """The features of all windows; the network is read anew, for `load_backbone` keeps one, wherever it was sent."""
    load_backbone.cache_clear()
    params = BackboneParams(name=name, weights="seed:0", precision=precision)  # type: ignore[arg-type]
    backbone = load_backbone(modality, params, device)  # type: ignore[arg-type]
    return run_backbone(backbone, windows(modality), length=LENGTH)


@pytest.mark.parametrize("modality", ["visual", "audio"])
@pytest.mark.parametrize(("precision", "least"), [("full", 1e-3), ("half", 1e-2)])
def test_features_are_those_of_the_cpu(
    device: str, modality: str, precision: str, least: float, record_property: Record
) -> None:
    """In half precision, too, those of the CPU in full: what the check at loading allows, 1 % of the largest value."""
    name = "test_resnet" if device == "cpu" else "resnet18"
    agree(device, (modality, name, precision), least, record_property)


def test_features_of_clips_are_those_of_the_cpu(device: str, record_property: Record) -> None:
    """Though the network's kernels lie in memory in another order there."""
    if device == "cpu":
        pytest.skip("13 s, to hold the CPU to itself")
    agree(device, ("visual", "torchvision:r3d_18", "full"), 1e-3, record_property)


def agree(device: str, network: tuple[str, str, str], least: float, record_property: Record) -> None:
    """network: modality, name and precision, of which the CPU is given full."""
    modality, name, precision = network
    expected, found = rows(modality, "cpu", name, "full"), rows(modality, device, name, precision)
    assert list(found) == list(expected)
    relative = max(float(np.abs(found[n] - x).max() / np.abs(x).max()) for n, x in expected.items())
    record_property(
        f"largest difference of {modality} features by {name}, {precision}, of a layer's largest value",
        f"{relative:.3g} ; at most {least:g}",
    )
    assert relative <= least


def test_passes_that_threads_ask_for_at_once_are_those_of_one(device: str) -> None:
    """To the bit: as the stage has its pieces computed on a GPU."""
    name = "test_resnet" if device == "cpu" else "resnet18"
    backbone = load_backbone("visual", BackboneParams(name=name, weights="seed:0"), device)
    batches = [np.stack([*windows("visual")])[i : i + 8] for i in range(4)]
    alone = [backbone.rows(batch, length=LENGTH) for batch in batches]
    together = list(several_at_once(lambda batch: backbone.rows(batch, length=LENGTH), batches * 4, threads=8))
    for expected, found in zip(alone * 4, together, strict=True):
        assert all(np.array_equal(found[layer], x) for layer, x in expected.items())


def test_the_detector_finds_the_same_faces(device: str, record_property: Record) -> None:
    frames = noisy(np.stack([with_face(scene(90), 40.0 + 7 * i, 10.0) for i in range(6)]))
    here, there = (Mtcnn(40.0, torch_networks(where)).detect(frames) for where in ("cpu", device))
    assert [len(faces) for faces in there] == [len(faces) for faces in here]
    assert sum(map(len, here)) >= len(frames)
    worst = max(float(np.abs(a.boxes - b.boxes).max()) for a, b in zip(here, there, strict=True))
    record_property("largest difference of a face's box", f"{worst:.3g} px; at most 0.5")
    assert worst <= 0.5
