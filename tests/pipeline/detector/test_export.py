"""Exported networks give PyTorch's scores, for any number of windows."""

import copy
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import nas
from cache_schemas.run import RunFileError
from pipeline.detector.export import Exported, ExportError, Scorer, Trained, example, export_networks, load_networks
from pipeline.workspace import Workspace
from tests.pipeline.run_fixture import make_index, make_workspace

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
OTHER = nas.Genotype(
    cells=(
        nas.Cell(x="audio/net.1", y="visual/net.3", steps=(nas.Step(x="x", y="y", operation="LinearGLU"),)),
        nas.Cell(x="cell1", y="visual/net.2", steps=(nas.Step(x="x", y="y", operation="Sum"),)),
    )
)
WIDTHS = {"visual/net.2": 12, "audio/net.1": 6, "visual/net.3": 4}


def made(genotype: nas.Genotype, seed: int) -> nas.CompactNetwork:
    network = nas.CompactNetwork(genotype, WIDTHS, channels=16, length=8)
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*network.parameters(), *(b for b in network.buffers() if b.is_floating_point())):
            tensor.add_(torch.rand(tensor.shape, generator=source))
    return network


@pytest.fixture(scope="module")
def trained() -> Trained:
    """Two networks: the second one reads the layers in another order, and one more."""
    return Trained((made(GENOTYPE, 0), made(OTHER, 1)), (7, 8))


@pytest.fixture(scope="module")
def exported(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Exported]:
    """The folder of network.onnx and network.pt2, and what was said of them."""
    folder = tmp_path_factory.mktemp("exported")
    return folder, export_networks(trained, onnx=folder / "network.onnx", pt2=folder / "network.pt2")


def test_exports_give_the_same_scores(trained: Trained, exported: tuple[Path, Exported]) -> None:
    tmp_path, result = exported
    assert set(result.errors) == {str(tmp_path / "network.onnx"), str(tmp_path / "network.pt2")}
    assert max(result.errors.values()) <= 1e-5
    assert result.seeds == (7, 8)
    assert result.parameters == sum(p.numel() for network in trained.networks for p in network.parameters())
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    for windows in (1, 5):
        inputs = example(Scorer(trained.networks), windows)
        features = dict(zip(WIDTHS, inputs, strict=True))
        each = torch.stack([network.predict(features) for network in trained.networks])
        assert (each[0] - each[1]).abs().max() > 1e-3
        scores = session.run(["p_fake"], {name: x.numpy() for name, x in features.items()})[0]
        np.testing.assert_allclose(scores, each.mean(0).numpy(), atol=1e-5)
    program = torch.export.load(tmp_path / "network.pt2").module()
    torch.testing.assert_close(program(*inputs), each.mean(0), atol=1e-5, rtol=0)


def test_an_exported_network_leaves_out_sound_that_is_not_there(
    trained: Trained, exported: tuple[Path, Exported]
) -> None:
    """A mute window's score is its picture's, whatever the sound's block has learnt to make of nothing."""
    folder, _ = exported
    program = torch.export.load(folder / "network.pt2").module()
    session = onnxruntime.InferenceSession(folder / "network.onnx")
    picture, sound, more = example(Scorer(trained.networks), 4)
    mute = torch.tensor([False, True, False, True])
    assert ((sound == 0).flatten(1).all(1) == mute).all()
    given = {"visual/net.2": picture, "audio/net.1": sound, "visual/net.3": more}
    scores = program(picture, sound, more)
    in_onnx = session.run(None, {name: x.numpy() for name, x in given.items()})[0]
    torch.testing.assert_close(torch.from_numpy(in_onnx), scores, atol=1e-5, rtol=0)
    others = copy.deepcopy(trained.networks)
    for other in others:
        for parameter in other.fusion.reshape["audio/net%2E1"].parameters():
            parameter.data.add_(3)
    changed = (torch.stack([other.predict(given) for other in others]).mean(0) - scores).abs()
    assert (changed[mute] < 1e-5).all()
    assert (changed[~mute] > 1e-3).all()


def test_multiply_adds_are_those_of_the_matrix_products(trained: Trained) -> None:
    C, L = 16, 8
    reshape = (12 + 6) * C * L
    attention = 2 * L * L * C
    glu, fully_connected, outputs = 2 * C * 2 * C * L, 2 * C * C * L, 2 * C * C * L
    classifier = 2 * C * 2
    alone = Trained(trained.networks[:1], (7,))
    mixing = export_networks(alone).macs - (reshape + attention + glu + fully_connected + outputs + classifier)
    assert 0 <= mixing <= 0.2 * (reshape + glu)  # sums that are written as small matrix products


def test_a_file_that_gives_other_scores_is_refused(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.detector.export.TOLERANCE", -1.0)
    with pytest.raises(ExportError, match=r"network\.pt2 was not kept"):
        export_networks(trained, pt2=tmp_path / "network.pt2")
    assert not (tmp_path / "network.pt2").exists()


def test_all_networks_of_a_name_are_loaded_or_one_by_its_seed(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, make_index())
    whole = load_networks(workspace, "fusion", None)
    assert (len(whole.networks), whole.seeds) == (2, (0, 1))
    one = load_networks(workspace, "fusion", 1)
    assert one.seeds == (1,)
    assert one.networks[0].spec() == whole.networks[1].spec()
    with pytest.raises(RunFileError, match=r"no fusion network of seed 5; it has \[0, 1\]"):
        load_networks(workspace, "fusion", 5)


def test_a_missing_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFileError, match="run `bmnas retrain` first"):
        load_networks(Workspace(tmp_path), "fusion", None)
