"""`bmnas bundle --onnx`: all that a detector computes, as graphs that onnxruntime runs alone (`by_onnx`)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cache_schemas.bundle import FUSING, MTCNN, SPECTROGRAM, backbone_graph
from cache_schemas.run import RetrainRun
from nas import CompactNetwork
from pipeline.backbones import Backbone, load_backbone
from pipeline.backbones.base import pool
from pipeline.detector.export import ExportError, Fusing, program_of
from pipeline.detector.opened import backbones_of
from pipeline.faces.networks import torch_networks
from pipeline.params import Params, SpectrogramParams
from pipeline.runs.scoring import trained_network
from pipeline.sound.clip import FLOOR, transform_of
from pipeline.workspace import Workspace

_OPSET = 18
logging.getLogger("onnxscript").setLevel(logging.ERROR)  # a line for each operator that it leaves as it is


def write_graphs(workspace: Workspace, run: RetrainRun, params: Params, root: Path) -> None:
    """Writes them below `root`; raises ExportError where one cannot be exported.

    params: with the places where backbones' weights lie here.
    """
    nets = torch_networks("cpu")
    for name, net, px in zip(MTCNN, (nets.p, nets.r, nets.o), (40, 24, 48), strict=True):
        free = {0: "n", 2: "h", 3: "w"} if net is nets.p else {0: "n"}
        _write(root / name, net.net, torch.zeros(2, 3, px, px), takes="pictures", free=free)  # type: ignore[attr-defined]
    samples = round(params.windows.window_s * params.spectrograms.sample_rate_hz)
    made = SpectrogramGraph(params.spectrograms, samples)
    _write(root / SPECTROGRAM, made, torch.zeros(2, samples), takes="waves", free={0: "n"})
    for modality, i, chosen in backbones_of(params):
        backbone = load_backbone(modality, chosen.model_copy(update={"runtime": "torch"}), "cpu")
        rows = Rows(backbone, params.features.length)
        window, graph = _window(backbone, params), root / backbone_graph(modality, i)
        _write(graph, rows, window, takes=backbone.input, gives=[*backbone.layers])
    names = [f"{entry.network}-{entry.seed}" for entry in run.entries]
    _write_fusing(root / FUSING, [trained_network(workspace, entry) for entry in run.entries], names)


class Rows(nn.Module):
    """A backbone with what is done before and behind it: windows -> its layers' rows."""

    def __init__(self, backbone: Backbone, length: int) -> None:
        super().__init__()
        self.net, self.backbone, self.length = backbone.net, backbone, length

    def forward(self, windows: Tensor) -> tuple[Tensor, ...]:
        """As `Backbone.__call__`."""
        number, maps = len(self.backbone.layers), self.backbone.maps(windows)
        tokens: Sequence[Tensor | None] = maps[number:] or [None] * number
        kinds = self.backbone.pool
        return tuple(
            pool(found, length=self.length, kinds=kinds, token=token)
            for found, token in zip(maps[:number], tokens, strict=True)
        )


class SpectrogramGraph(nn.Module):
    """`compute_spectrogram` as convolutions, with its transform's own window and bands: its FFT cannot be exported."""

    def __init__(self, params: SpectrogramParams, samples: int) -> None:
        super().__init__()
        transform: Any = transform_of(params)
        plain: Any = getattr(transform, "spectrogram", transform)
        n_fft: int = plain.n_fft
        window: Tensor = plain.window.double()
        self.hop, self.pad, self.hops = plain.hop_length, n_fft // 2, max(1, samples // plain.hop_length)
        left = (n_fft - len(window)) // 2
        window = nn.functional.pad(window, (left, n_fft - len(window) - left))
        turns = (torch.outer(torch.arange(n_fft // 2 + 1), torch.arange(n_fft)) % n_fft).double() * (
            2 * torch.pi / n_fft
        )
        waves = torch.cat([turns.cos(), turns.sin()]) * window
        self.register_buffer("waves", waves.float()[:, None])
        self.register_buffer("bands", transform.mel_scale.fb if hasattr(transform, "mel_scale") else None)

    def forward(self, waves: Tensor) -> Tensor:
        """(N, bands, hops) of (N, samples)."""
        padded = nn.functional.pad(waves[:, None], (self.pad, self.pad), mode="reflect")
        parts = nn.functional.conv1d(padded, self.waves, stride=self.hop)[..., : self.hops]  # type: ignore[arg-type]
        cosine, sine = parts.chunk(2, dim=1)
        power = cosine * cosine + sine * sine
        if self.bands is not None:
            power = (power.transpose(1, 2) @ self.bands).transpose(1, 2)  # type: ignore[operator]
        return (power + FLOOR).log()


def _write_fusing(path: Path, networks: Sequence[CompactNetwork], names: list[str]) -> None:
    fusing = Fusing(networks).eval().requires_grad_(False)
    program = torch.onnx.export(
        program_of(fusing), input_names=[*fusing.in_channels], output_names=names, opset_version=_OPSET, verbose=False
    )
    assert program is not None  # noqa: S101 - it is None only where a file is named
    path.parent.mkdir(exist_ok=True)
    program.save(path)


def _window(backbone: Backbone, params: Params) -> Tensor:
    """One window of what the backbone takes, of the sizes that the parameters say."""
    faces, sound, seconds = params.faces, params.spectrograms, params.windows.window_s
    draw = np.random.default_rng(0)
    samples = round(seconds * sound.sample_rate_hz)
    if backbone.input == "crops":
        shape = (1, faces.frames, faces.size_px, faces.size_px, 3)
        return torch.from_numpy(draw.integers(0, 256, shape, dtype=np.uint8))
    waves = draw.standard_normal((1, samples)).astype(np.float32) / 10
    if backbone.input == "waveform":
        return torch.from_numpy((waves * 2**15).astype(np.int16))
    spectrogram: Tensor = SpectrogramGraph(sound, samples)(torch.from_numpy(waves))
    return spectrogram


def _write(
    path: Path,
    net: nn.Module,
    example: Tensor,
    *,
    takes: str,
    gives: list[str] | None = None,
    free: dict[int, str] | None = None,
) -> None:
    """takes, gives: names of input and outputs; free: {axis of the input whose size is open: a name}."""
    path.parent.mkdir(exist_ok=True)
    try:
        with warnings.catch_warnings(action="ignore"), torch.inference_mode():  # of the exporter, about itself
            torch.onnx.export(
                net.eval(),
                (example,),
                str(path),
                dynamo=False,
                opset_version=_OPSET,
                input_names=[takes],
                output_names=gives,
                dynamic_axes={takes: free} if free else None,
            )
    except Exception as error:  # of any of hundreds of networks of others
        raise ExportError(
            f"{path.stem} cannot be exported as ONNX: {error}; leave --onnx away, or choose another backbone"
        ) from error
