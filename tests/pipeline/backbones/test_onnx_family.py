"""ONNX files: what their taps give, and files that are not read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.backbones import BackboneError, load_backbone, pool, resolved
from pipeline.params import Params, parse_params
from tests.pipeline.backbones.by_max import by_max
from tests.pipeline.backbones.conftest import drawn, picture, save

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
CROPS = torch.randint(0, 256, (2, 4, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SOUND = (torch.randn(2, 8000, generator=torch.Generator().manual_seed(0)) * 3000).to(torch.int16)


def make(modality: Any, name: str, **more: Any) -> Any:
    return load_backbone.__wrapped__(modality, by_max(name=name, **more), "cpu")


def test_taps_of_pictures_by_hand(onnx_files: Path) -> None:
    backbone = make("visual", f"onnx:{onnx_files / 'picture.onnx'}#first,deep,embedding")
    assert backbone.layers == {
        "visual/onnx_picture.first": 4,
        "visual/onnx_picture.deep": 6,
        "visual/onnx_picture.embedding": 6,
    }
    pixels = CROPS.flatten(0, 1).permute(0, 3, 1, 2) / 255
    pixels = (pixels - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        3, 1, 1
    )
    first = torch.conv2d(pixels, torch.from_numpy(drawn(4, 3, 4, 4)), stride=4)
    deep = torch.conv2d(first.relu(), torch.from_numpy(drawn(6, 4, 2, 2)), stride=2)
    expected = [first.amax((2, 3)), deep.amax((2, 3)), deep.mean((2, 3))]
    for found, reference in zip(backbone(CROPS, length=4).values(), expected, strict=True):
        torch.testing.assert_close(found, reference.unflatten(0, (2, 4)), rtol=1e-4, atol=1e-5)


def test_taps_of_sound_by_hand(onnx_files: Path) -> None:
    backbone = make("audio", f"onnx:{onnx_files / 'sound.onnx'}#steps")
    steps = (SOUND.float() / 32768).view(2, 50, 160) @ torch.from_numpy(drawn(160, 5))
    (found,) = backbone(SOUND, length=5).values()
    torch.testing.assert_close(found, pool(steps.mT, length=5), rtol=1e-4, atol=1e-5)


def test_a_spectrogram_is_one_channel_and_a_tap_may_have_slashes(onnx_files: Path) -> None:
    backbone = make("audio", f"onnx:{onnx_files / 'spectrogram.onnx'}#/stem/Conv")
    assert backbone.layers == {"audio/onnx_spectrogram._stem_Conv": 4}
    bands = torch.randn(1, 80, 120, generator=torch.Generator().manual_seed(1)) * 5 - 3
    x = ((bands - bands.mean()) / bands.std())[:, None]
    reference = torch.conv2d(x, torch.from_numpy(drawn(4, 1, 2, 4)), stride=(2, 4)).transpose(2, 3)
    (found,) = backbone(bands, length=6).values()
    torch.testing.assert_close(found, pool(reference, length=6), rtol=1e-4, atol=1e-4)
    with pytest.raises(BackboneError, match=r"it was given \(1, 1, 80, 100\)"):
        backbone(bands[..., :100].contiguous(), length=6)


def test_the_identity_is_the_files_content_not_its_place(onnx_files: Path, tmp_path: Path) -> None:
    first = make("visual", f"onnx:{onnx_files / 'picture.onnx'}#conv")
    copy = tmp_path / "picture.onnx"
    copy.write_bytes((onnx_files / "picture.onnx").read_bytes())
    other = make("visual", f"onnx:{copy}#conv,deep")
    assert other.identity() == first.identity()
    assert "onnx:" not in str(first.identity()) or str(onnx_files) not in str(first.identity())
    save(copy, *picture()[:2], {"w1": drawn(4, 3, 4, 4) * 2, "w2": drawn(6, 4, 2, 2)}, "embedding")
    assert make("visual", f"onnx:{copy}#conv,deep").identity() != first.identity()


def test_random_weights_are_the_files_own_shuffled(onnx_files: Path) -> None:
    name = f"onnx:{onnx_files / 'sound.onnx'}#steps"
    (drawn_, again, others, its) = (make("audio", name, weights=w) for w in ("seed:0", "seed:0", "seed:1", "bundled"))
    (a,), (b,), (c,), (d,) = (each(SOUND, length=5).values() for each in (drawn_, again, others, its))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert not torch.equal(a, d)
    assert a.std() == pytest.approx(float(d.std()), rel=0.5)


def test_a_worker_in_another_folder_finds_the_file(onnx_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(onnx_files)
    params = resolved(by_max(name="onnx:spectrogram.onnx#/stem/Conv"))
    assert params.name == f"onnx:{onnx_files}/spectrogram.onnx#/stem/Conv"
    both = parse_params({"features": {"visual": [{"name": f"onnx:{x}.onnx#a"} for x in "ab"]}}, source="here")
    assert isinstance(both, Params)
    with pytest.raises(ValueError, match=r"two backbones would name their layers onnx_a\.STAGE"):
        parse_params({"features": {"visual": [{"name": f"onnx:{x}/a.onnx#a"} for x in "ab"]}}, source="here")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.onnx#a", "No such file"),
        ("picture.onnx", "there is no .*; the last are conv, relu, deep, average, embedding"),
        ("picture.onnx#conv,nothing", r"there is no \['nothing'\]"),
        ("picture.onnx#conv,conv", "each once"),
        ("sound.onnx#steps", r"has 2 dimensions; for features\.visual it has 4"),
        ("text.onnx#a", "is no ONNX file"),
        ("huge.onnx#a", "more than an ONNX file may"),
        ("outside.onnx#conv", "keeps its weights in other files: save it as one"),
        ("hidden.onnx#conv", "keeps its weights in other files: save it as one"),
        ("two.onnx#conv", "needs one input, float32; it has x, w1"),
        ("unknown.onnx#conv", "onnxruntime cannot open it"),
    ],
)
def test_files_that_are_not_read(name: str, message: str, faulty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(faulty)
    with pytest.raises(BackboneError, match=message):
        make("visual", f"onnx:{name}")


def test_its_weights_are_its_own(onnx_files: Path) -> None:
    with pytest.raises(BackboneError, match=r"weights: bundled or seed:N, not hub"):
        make("audio", f"onnx:{onnx_files / 'sound.onnx'}#steps", weights="hub")


@pytest.fixture(scope="module")
def faulty(onnx_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files that are good and files that are not."""
    folder = tmp_path_factory.mktemp("faulty")
    for file in onnx_files.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "text.onnx").write_text("no network")
    with (folder / "huge.onnx").open("wb") as file:
        file.truncate(2**31)  # takes no room
    for kind in ("outside", "hidden", "two", "unknown"):
        (folder / f"{kind}.onnx").write_bytes(_spoilt(kind, onnx.load(folder / "picture.onnx")))
    return folder


def _spoilt(kind: str, model: Any) -> bytes:
    """The picture's network with a fault."""
    if kind == "outside":
        onnx.external_data_helper.set_external_data(model.graph.initializer[0], "../secret.bin")
        model.graph.initializer[0].ClearField("raw_data")
    elif kind == "hidden":  # in a node's attribute
        value = onnx.numpy_helper.from_array(np.zeros(3, np.float32))
        onnx.external_data_helper.set_external_data(value, "/etc/hostname")
        value.ClearField("raw_data")
        model.graph.node.append(onnx.helper.make_node("Constant", [], ["c"], value=value))
    elif kind == "two":
        del model.graph.initializer[0]
        model.graph.input.append(onnx.helper.make_tensor_value_info("w1", onnx.TensorProto.FLOAT, [4, 3, 4, 4]))
    else:
        model.graph.node[0].op_type = "Unheard"
    content: bytes = model.SerializeToString()
    return content


def test_only_processors_are_asked_to_compute(onnx_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = make("visual", f"onnx:{onnx_files / 'picture.onnx'}#conv")
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(
            ImportError,
            match=r"no CUDAExecutionProvider here.* pip install onnxruntime-gpu, or set compute\.device: cpu",
        ):
            backbone.to("cuda")
