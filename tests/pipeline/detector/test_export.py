"""Exported networks give PyTorch's scores, for any number of windows."""

import copy
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import nas
from cache_schemas.run import RunFileError
from pipeline.detector.export import Exported, ExportError, Trained, example, export_network, load_network
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


@pytest.fixture(scope="module")
def exported(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Exported]:
    """The folder of network.onnx and network.pt2, and what was said of them."""
    folder = tmp_path_factory.mktemp("exported")
    return folder, export_network(trained, onnx=folder / "network.onnx", pt2=folder / "network.pt2")


def test_exports_give_the_same_scores(trained: Trained, exported: tuple[Path, Exported]) -> None:
    tmp_path, result = exported
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


def test_an_exported_network_leaves_out_sound_that_is_not_there(
    trained: Trained, exported: tuple[Path, Exported]
) -> None:
    """A mute window's score is its picture's, whatever the sound's block has learnt to make of nothing."""
    folder, _ = exported
    program = torch.export.load(folder / "network.pt2").module()
    session = onnxruntime.InferenceSession(folder / "network.onnx")
    picture, sound = example(trained.network, 4)
    mute = torch.tensor([False, True, False, True])
    assert ((sound == 0).flatten(1).all(1) == mute).all()
    given = {"visual/net.2": picture, "audio/net.1": sound}
    scores = program(picture, sound)
    in_onnx = session.run(None, {name: x.numpy() for name, x in given.items()})[0]
    torch.testing.assert_close(torch.from_numpy(in_onnx), scores, atol=1e-5, rtol=0)
    other = copy.deepcopy(trained.network)
    for parameter in other.fusion.reshape["audio/net%2E1"].parameters():
        parameter.data.add_(3)
    changed = (other.predict(given) - scores).abs()
    assert (changed[mute] < 1e-5).all()
    assert (changed[~mute] > 1e-3).all()


def test_multiply_adds_are_those_of_the_matrix_products(trained: Trained) -> None:
    C, L = 16, 8
    reshape = (12 + 6) * C * L
    attention = 2 * L * L * C
    glu, fully_connected, outputs = 2 * C * 2 * C * L, 2 * C * C * L, 2 * C * C * L
    classifier = 2 * C * 2
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
