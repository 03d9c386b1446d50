"""Fusion networks that are designed, not searched: what a found architecture has to beat, over the same runs axis.

Each reads every layer of the cache through the supernet's reshape blocks; activations are (R, B, L, C).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from nas.config import RetrainConfig, check_config
from nas.data import check_seeds, prepare
from nas.failures import checked
from nas.functions import sigmoid
from nas.genotype import Cell, Genotype, Step
from nas.layers import ConvBlock, Linear, Pass
from nas.network import RunsNetwork
from nas.training import Training, TrainingResult

PUBLISHED: Mapping[str, Any] = {
    "space": "bmnas",
    "estimator": "published",
    "temperature": 10.0,
    "temperature_end": None,
    "temperature_schedule": "constant",
    "samples": 15,
    "weight_mix": "samples",
    "warmup_epochs": 0,
    "batch_size": 16,
    "weight_lr": 1e-3,
    "weight_lr_min": 1e-6,
    "weight_decay": 3e-4,
    "arch_lr": 3e-4,
    "arch_beta": 0.5,
    "arch_weight_decay": 1e-3,
    "level": "bilevel",
    "head": "flatten",
    "entropy_weight": 0.0,
    "cost_weight": 0.0,
    "derive": "argmax",
}
"""What the method's released code does, as changes of a SearchConfig; size and length of the search are left to it."""

ONE_SHOT: Mapping[str, Any] = {
    **{name: PUBLISHED[name] for name in ("space", "estimator", "temperature", "samples")},
    "derive": "best_of",
}
"""One-shot search: choices that hardly move train the weights of all architectures, and best_of compares those."""


class Baseline(RunsNetwork):
    """R networks of one design; subclasses say how the reshaped layers become logits.

    modalities: that it needs.
    """

    modalities: ClassVar[tuple[str, ...]] = ("visual", "audio")

    def __init__(self, in_channels: Mapping[str, int], *, channels: int, length: int, seeds: Sequence[int]) -> None:
        super().__init__(
            dict.fromkeys(in_channels, tuple(range(len(seeds)))), in_channels, channels, length, len(seeds)
        )
        self.build(len(seeds), channels, length)
        self.initialise(seeds)

    def blank(self, runs: Sequence[int]) -> Self:
        """Return so many new networks of the design."""
        return type(self)(self.in_channels, channels=self.channels, length=self.length, seeds=(0,) * len(runs))

    def build(self, runs: int, channels: int, length: int) -> None:
        """Make the blocks behind the reshape layers."""
        raise NotImplementedError

    def head(self, values: Mapping[str, Tensor], how: Pass) -> Tensor:
        """Return logits (R, B, 2) of the reshaped layers (R, B, L, C)."""
        raise NotImplementedError

    def forward(self, features: Mapping[str, Tensor], how: Pass) -> Tensor:
        """Return logits (R, B, 2) of features {layer: (R or 1, B, L, C_in)}."""
        return self.head(self.reshaped(features, how), how)

    def of(self, modality: str) -> list[str]:
        """Return the names of a modality's layers, shallow to deep."""
        return [name for name in self.readers if name.startswith(f"{modality}/")]


class ConcatMLP(Baseline):
    """All layers' means over time side by side, one hidden layer of C, a classifier. One modality is enough."""

    modalities = ()

    def build(self, runs: int, channels: int, length: int) -> None:
        """Make the hidden layer and the classifier."""
        self.hidden = ConvBlock(runs, len(self.readers) * channels, channels)
        self.classifier = Linear(runs, channels, 2)

    def head(self, values: Mapping[str, Tensor], how: Pass) -> Tensor:
        """Return logits (R, B, 2)."""
        pooled = torch.cat([value.mean(dim=2, keepdim=True) for value in values.values()], dim=3)
        return self.classifier(self.hidden(pooled, how=how, site="hidden")[:, :, 0])  # type: ignore[no-any-return]


class GMU(Baseline):
    """Gated multimodal unit (Arevalo et al., arXiv 1702.01992): z tanh(W_v v) + (1 - z) tanh(W_a a), z of both."""

    def build(self, runs: int, channels: int, length: int) -> None:
        """Make the two projections, the gate and the classifier."""
        widths = {modality: len(self.of(modality)) * channels for modality in self.modalities}
        self.project = nn.ModuleDict({name: Linear(runs, width, channels) for name, width in widths.items()})
        self.gate = Linear(runs, sum(widths.values()), channels)
        self.classifier = Linear(runs, channels, 2)

    def head(self, values: Mapping[str, Tensor], how: Pass) -> Tensor:
        """Return logits (R, B, 2)."""
        pooled = {
            modality: torch.cat([values[name].mean(dim=2) for name in self.of(modality)], dim=2)
            for modality in self.modalities
        }
        visual, audio = (self.project[name](x).tanh() for name, x in pooled.items())
        z = sigmoid(self.gate(torch.cat(list(pooled.values()), dim=2)))
        return self.classifier(z * visual + (1 - z) * audio)  # type: ignore[no-any-return]


class CentralNet(Baseline):
    """CentralNet (Vielzeuf et al., arXiv 1808.07275): a central network beside the two backbones.

    Its layer i is a block of the weighted sum of its own last output and the i-th layers of both modalities, counted
    from the deep end; one learnt scalar each.
    """

    def build(self, runs: int, channels: int, length: int) -> None:
        """Make the central blocks and the classifier."""
        depth = max(len(self.of(modality)) for modality in self.modalities)
        self.blocks = nn.ModuleList(ConvBlock(runs, channels, channels) for _ in range(depth))
        self.sums = nn.ParameterList(torch.ones(runs, 3, 1, 1, 1) for _ in range(depth))
        self.classifier = Linear(runs, channels * length, 2)

    def head(self, values: Mapping[str, Tensor], how: Pass) -> Tensor:
        """Return logits (R, B, 2)."""
        central = None
        for i, (block, weights) in enumerate(zip(self.blocks, self.sums, strict=True)):
            from_end = len(self.blocks) - i
            layers = [values[names[-from_end]] for names in map(self.of, self.modalities) if from_end <= len(names)]
            inputs = layers if central is None else [central, *layers]
            total: Any = sum(weights[:, j] * x for j, x in enumerate(inputs))
            central = block(total, how=how, site=f"central{i + 1}")
        assert central is not None  # noqa: S101 - depth is at least one
        return self.classifier(central.flatten(2))  # type: ignore[no-any-return]


DESIGNS: dict[str, type[Baseline]] = {design.__name__: design for design in (ConcatMLP, GMU, CentralNet)}


@dataclass(frozen=True)
class DesignResult(TrainingResult):
    """One trained network of a design. parameters: of one run."""

    parameters: int


def train_design(  # noqa: PLR0917 - callers may name them
    features: Mapping[str, Tensor],
    labels: Any,
    split: Sequence[str],
    design: str,
    config: RetrainConfig,
    seeds: Sequence[int],
) -> list[DesignResult]:
    """Return one result per seed, trained as `nas.retrain` trains a found architecture: same steps, same stopping.

    design: one of DESIGNS; features, labels, split: as for `nas.search`.
    """
    if design not in DESIGNS:
        raise ValueError(f"design is {design!r}; allowed: {', '.join(DESIGNS)}")
    runs, config = check_seeds(seeds), check_config("config", config, RetrainConfig)
    data = prepare(features, labels, split, config.device, reads="all")
    missing = [m for m in DESIGNS[design].modalities if not any(name.startswith(f"{m}/") for name in data.features)]
    if missing:
        raise ValueError(f"design {design} needs {' and '.join(missing)} layers; features has {list(data.features)}")
    network = DESIGNS[design](data.in_channels, channels=config.channels, length=data.length, seeds=runs)
    state = Training(data, config, network, runs)
    parameters = sum(parameter[0].numel() for parameter in network.parameters())
    return checked(
        [
            DesignResult(runs[r], state.curves[r], state.errors[r], trained, parameters)
            for r, trained in enumerate(state.run(None))
        ]
    )


def join_last_layers(layers: Sequence[str], steps: tuple[Step, ...], cells: int = 1) -> Genotype:
    """Return cells of these steps; cell i joins the i-th last layers of both modalities."""
    visual, audio = ([name for name in layers if name.startswith(f"{m}/")][::-1] for m in ("visual", "audio"))
    pairs = zip(visual[:cells], audio[:cells], strict=True)
    return Genotype(cells=tuple(Cell(x=x, y=y, steps=steps) for x, y in pairs))


def fixed_genotypes(layers: Sequence[str]) -> dict[str, Genotype]:
    """Return the hand-made cells that BM-NAS compares with, on the deepest layers of both modalities.

    "attention on attention" is attention, then a gated linear unit of the query and what was attended to; "two-head
    attention" sums two attentions, one in each direction (arXiv 2104.09379).
    """
    attention = Step(x="x", y="y", operation="ScaledDotAttn")
    designs = {
        "attention on attention": (attention, Step(x="x", y="step1", operation="LinearGLU")),
        "two-head attention": (attention, Step(x="y", y="x", operation="ScaledDotAttn")),
        "concatenation of the last layers": (Step(x="x", y="y", operation="ConcatFC"),),
    }
    return {name: join_last_layers(layers, steps) for name, steps in designs.items()}
