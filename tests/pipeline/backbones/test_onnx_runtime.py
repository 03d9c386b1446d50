"""onnxruntime: an extra, on the CPU, for two-dimensional networks, with the features of torch."""

import sys
from typing import Any

import pytest
import torch

from pipeline.backbones import BackboneError, Modality
from pipeline.backbones.fusing import relative_error
from pipeline.backbones.onnx_runtime import MissingRuntimeError, OnnxNet
from tests.pipeline.backbones.by_max import by_max
from tests.pipeline.backbones.test_base import make, windows_for


class Fake:
    """onnxruntime's part that is used; what it is asked to compute, torch computes."""

    net: torch.nn.Module

    class SessionOptions:
        """Takes any attribute."""

    def get_available_providers(self) -> list[str]:
        """As of the package without CUDA."""
        return ["CPUExecutionProvider"]

    def InferenceSession(self, *_: object, **__: object) -> Any:  # noqa: N802
        """A session that runs the network itself."""
        return self

    def run(self, _: None, inputs: dict[str, Any]) -> list[Any]:
        """The maps of one picture."""
        (x,) = inputs.values()
        assert x.shape[0] == 1
        return [y.numpy() for y in self.net(torch.from_numpy(x))]


@pytest.mark.parametrize(
    ("modality", "name"),
    [("visual", "tf_efficientnet_lite0"), ("audio", "resnet18"), ("visual", "torchvision:mobilenet_v3_small")],
)
def test_it_gives_torchs_features(modality: Modality, name: str) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    torchs, ours = (make(modality, name, runtime=runtime) for runtime in ("torch", "onnxruntime"))
    windows = windows_for(torchs)
    reference, found = torchs(windows, length=8), ours(windows, length=8)
    for layer, x in found.items():
        assert relative_error(x, reference[layer]) < 1e-4, layer
    alone = ours(windows[:1], length=8)
    assert all(torch.equal(x[0], found[layer][0]) for layer, x in alone.items())
    assert ours.identity() == torchs.identity() | {"runtime": "onnxruntime"}


def test_one_export_for_each_size_of_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without the extra, too."""
    fake, exports = Fake(), []
    fake.net = torch.nn.ModuleList([torch.nn.Conv2d(3, 2, 1), torch.nn.Conv2d(3, 4, 3)]).requires_grad_(False)
    fake.net.forward = lambda x: [part(x) for part in fake.net.children()]
    monkeypatch.setattr("pipeline.backbones.onnx_runtime.import_runtime", lambda _: fake)
    monkeypatch.setattr(torch.onnx, "export", lambda _, inputs, *__, **___: exports.append(inputs[0].shape))
    net = OnnxNet(fake.net)
    for n, size in ((5, 8), (2, 8), (3, 9)):
        x = torch.randn(n, 3, size, size).to(memory_format=torch.channels_last)
        expected = fake.net(x)
        for found, reference in zip(net(x), expected, strict=True):
            assert torch.allclose(found, reference, atol=1e-6)
    assert exports == [(1, 3, 8, 8), (1, 3, 9, 9)]


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingRuntimeError, match="pip install onnxruntime onnx, or set runtime: torch"):
        make("visual", "test_resnet", runtime="onnxruntime", layers=1)


def test_it_is_for_pictures_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackboneError, match="is for two-dimensional networks; set runtime: torch"):
        make("visual", "inflated:resnet50", runtime="onnxruntime", layers=(0,))
    monkeypatch.setattr("pipeline.backbones.onnx_runtime.import_runtime", lambda _: Fake())
    backbone = make("visual", "test_resnet", runtime="onnxruntime", layers=1)
    with pytest.raises(BackboneError, match="computes on the CPU, not on cuda"):
        backbone.to("cuda")
    with pytest.raises(ValueError, match="precision: half needs runtime: torch"):
        by_max(runtime="onnxruntime", precision="half")
