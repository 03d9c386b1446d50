"""Command `export`: trained networks, as one, in ONNX or as a torch.export program, checked against PyTorch."""

from __future__ import annotations

import statistics
import timeit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cache_schemas.files import replacing
from cache_schemas.run import NetworkName, RetrainRun, RunFileError, read_run
from nas import CompactNetwork
from pipeline.runs.scoring import trained_network
from pipeline.workspace import Workspace

TOLERANCE = 1e-5  # largest difference from PyTorch's P(fake)
BATCHES = (1, 2, 33)  # windows at once in the check: the exported batch axis must be free
RUNS = 50


class ExportError(ValueError):
    """A network cannot be exported; the message says why and what to do."""


@dataclass(frozen=True)
class Trained:
    """Retrained networks, and the seeds of their trainings."""

    networks: tuple[CompactNetwork, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Exported:
    """What `export` has to say. macs: multiply-adds of one window; errors: {file: largest difference}."""

    seeds: tuple[int, ...]
    inputs: tuple[str, ...]
    parameters: int
    macs: int
    latency_ms: dict[str, float]
    errors: dict[str, float]


class Scorer(nn.Module):
    """P(fake) (B,), the networks' mean, of features given one by one, (B, L, C_in) float32 each, as in `in_channels`.

    Of a window without sound the audio features are zeros: its picture alone is scored.
    """

    def __init__(self, networks: Sequence[CompactNetwork]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.in_channels = {name: width for network in networks for name, width in network.in_channels.items()}
        self.length = networks[0].length

    def forward(self, *features: Tensor) -> Tensor:
        """Return P(fake), (B,)."""
        given = dict(zip(self.in_channels, features, strict=True))
        return torch.stack([network(given).softmax(dim=1)[:, 1] for network in self.networks]).mean(dim=0)


class Fusing(nn.Module):
    """All networks, each with the features that it reads: P(fake) (B,) of each."""

    def __init__(self, networks: Sequence[CompactNetwork]) -> None:
        super().__init__()
        self.scorers = nn.ModuleList(Scorer([network]) for network in networks)
        self.in_channels = {name: width for network in networks for name, width in network.in_channels.items()}
        self.length = networks[0].length

    def forward(self, *features: Tensor) -> tuple[Tensor, ...]:
        """Features one by one, (B, L, C_in) each, as in `in_channels`."""
        given = dict(zip(self.in_channels, features, strict=True))
        return tuple(
            scorer(*(given[name] for name in scorer.in_channels))  # type: ignore[union-attr]
            for scorer in self.scorers
        )


def load_networks(workspace: Workspace, network: NetworkName, seed: int | None) -> Trained:
    """The trained networks of that name; seed: that one alone. Raises RunFileError where there is none."""
    path = workspace.retrain / "retrain.json"
    entries = [entry for entry in read_run(path, RetrainRun).entries if entry.network == network]
    chosen = [entry for entry in entries if seed in (None, entry.seed)]
    if not chosen:
        raise RunFileError(f"{path} has no {network} network of seed {seed}; it has {[e.seed for e in entries]}")
    networks = tuple(trained_network(workspace, entry) for entry in chosen)
    return Trained(networks, tuple(entry.seed for entry in chosen))


def export_networks(trained: Trained, *, onnx: Path | None = None, pt2: Path | None = None) -> Exported:
    """Sizes and speed of the detector, which is written to the given files, read back and compared."""
    scorer = Scorer(trained.networks).eval().requires_grad_(False)
    one = example(scorer, 1)
    with FlopCounterMode(display=False) as counter:
        scorer(*one)
    latency = {"torch": _latency_ms(lambda: scorer(*one))}
    errors = {}
    if pt2 is not None:
        program = program_of(scorer)
        with replacing(pt2) as temporary:
            torch.export.save(program, temporary)
        loaded = torch.export.load(pt2).module()
        errors[str(pt2)] = _checked(scorer, loaded, pt2)
    if onnx is not None:
        run = _write_onnx(scorer, onnx)
        errors[str(onnx)] = _checked(scorer, run, onnx)
        latency["onnxruntime"] = _latency_ms(lambda: run(*one))
    return Exported(
        seeds=trained.seeds,
        inputs=tuple(f"{name}: (windows, {scorer.length}, {width})" for name, width in scorer.in_channels.items()),
        parameters=sum(parameter.numel() for parameter in scorer.parameters()),
        macs=counter.get_total_flops() // 2,
        latency_ms=latency,
        errors=errors,
    )


def example(scorer: Scorer | Fusing, windows: int) -> tuple[Tensor, ...]:
    """Features of the shapes that the detector reads, standard normal, always the same; every other window is mute."""
    source = torch.Generator().manual_seed(windows)
    found = {n: torch.randn(windows, scorer.length, width, generator=source) for n, width in scorer.in_channels.items()}
    for name, x in found.items():
        if name.startswith("audio/"):
            x[1::2] = 0
    return tuple(found.values())


def program_of(scorer: Scorer | Fusing) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("windows", min=1)
    inputs = example(scorer, 2)
    return torch.export.export(scorer, inputs, dynamic_shapes={"features": tuple({0: batch} for _ in inputs)})


def _write_onnx(scorer: Scorer, path: Path) -> Callable[..., Tensor]:
    try:
        import onnxruntime  # noqa: PLC0415 - an extra
        import onnxscript  # noqa: F401, PLC0415
    except ImportError as error:
        raise ExportError(f"--onnx needs a package that is not installed: pip install {error.name} onnx") from None
    names = list(scorer.in_channels)
    program = torch.onnx.export(program_of(scorer), input_names=names, output_names=["p_fake"], verbose=False)
    assert program is not None  # noqa: S101 - it is None only where a file is named
    with replacing(path) as temporary:
        program.save(temporary)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(*features: Tensor) -> Tensor:
        given: Mapping[str, object] = {name: x.numpy() for name, x in zip(names, features, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    return run


def _checked(scorer: Scorer, other: Callable[..., Tensor], path: Path) -> float:
    """The largest difference of P(fake) over the batches; raises ExportError above TOLERANCE."""
    worst = 0.0
    for windows in BATCHES:
        inputs = example(scorer, windows)
        worst = max(worst, float((scorer(*inputs) - other(*inputs)).abs().max()))
    if not worst <= TOLERANCE:
        path.unlink()
        raise ExportError(
            f"{path} was not kept: its scores differ from PyTorch's by {worst:.2e}, allowed: {TOLERANCE:g}"
        )
    return worst


def _latency_ms(score: Callable[[], object]) -> float:
    """The median of RUNS calls, in milliseconds."""
    score()
    return 1000 * statistics.median(timeit.repeat(score, number=1, repeat=RUNS))
