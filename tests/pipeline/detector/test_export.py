"""Exported networks give PyTorch's scores, for any number of windows."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import nas
from cache_schemas.run import RunFileError
from pipeline.detector.export import ExportError, Trained, example, export_network, load_network
from pipeline.workspace import Workspace

GENOTYPE = nas.Genotype(
    cells=(
        nas.Cell(
            x="visual/net.2",
            y="audio/net.1",
            steps=(
                nas.Step(x="x", y="y", operation="ScaledDotAttn"),
                nas.Step(x="step1", y="y", operation="LinearGLU"),
            ),
        ),
        nas.Cell(
            x="cell1",
            y="audio/net.1",
            steps=(nas.Step(x="y", y="x", operation="ConcatFC"), nas.Step(x="x", y="step1", operation="Sum")),
        ),
    )
)
WIDTHS = {"visual/net.2": 12, "audio/net.1": 6}


@pytest.fixture(scope="module")
def trained() -> Trained:
    network = nas.CompactNetwork(GENOTYPE, WIDTHS, channels=16, length=8)
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*network.parameters(), *(b for b in network.buffers() if b.is_floating_point())):
            tensor.add_(torch.rand(tensor.shape, generator=source))
    return Trained(network, 7)


def test_exports_give_the_same_scores(trained: Trained, tmp_path: Path) -> None:
    result = export_network(trained, onnx=tmp_path / "network.onnx", pt2=tmp_path / "network.pt2")
    assert set(result.errors) == {str(tmp_path / "network.onnx"), str(tmp_path / "network.pt2")}
    assert max(result.errors.values()) <= 1e-5
    assert result.seed == 7
    assert result.parameters == sum(p.numel() for p in trained.network.parameters())
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    for windows in (1, 5):
        inputs = example(trained.network, windows)
        features = dict(zip(WIDTHS, inputs, strict=True))
        scores = session.run(["p_fake"], {name: x.numpy() for name, x in features.items()})[0]
        np.testing.assert_allclose(scores, trained.network.predict(features).numpy(), atol=1e-5)
    program = torch.export.load(tmp_path / "network.pt2").module()
    torch.testing.assert_close(program(*inputs), trained.network.predict(features), atol=1e-5, rtol=0)


def test_multiply_adds_are_those_of_the_matrix_products(trained: Trained) -> None:
    C, L = 16, 8
    reshape = (12 + 6) * C * L
    attention = 2 * L * L * C
    glu, fully_connected, outputs = 2 * C * 2 * C * L, 2 * C * C * L, 2 * C * C * L
    classifier = 2 * C * L * 2
    mixing = export_network(trained).macs - (reshape + attention + glu + fully_connected + outputs + classifier)
    assert 0 <= mixing <= 0.2 * (reshape + glu)  # sums that are written as small matrix products


def test_a_file_that_gives_other_scores_is_refused(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.detector.export.TOLERANCE", -1.0)
    with pytest.raises(ExportError, match=r"network\.pt2 was not kept"):
        export_network(trained, pt2=tmp_path / "network.pt2")
    assert not (tmp_path / "network.pt2").exists()


def test_a_missing_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFileError, match="run `bmnas retrain` first"):
        load_network(Workspace(tmp_path), "fusion", None)
