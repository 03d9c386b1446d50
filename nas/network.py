"""R fusion networks side by side: one cell and one step, whether a mixture or a genotype says what is read.

Supernet and derived networks are the same blocks under the same names; they differ in how nodes read (`nas.reading`)
and in which runs a block holds. Where a block holds all runs (always for R = 1) no rows move.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.choices import ArchitectureParameters
from nas.config import Head
from nas.functions import blend
from nas.genotype import Genotype, cell_name, step_name
from nas.layers import Block, ConvBlock, LayerNorm, Linear, Pass, initialise_blocks, normalise
from nas.primitives import OPERATIONS
from nas.random import Runs
from nas.reading import Mix, Mixture, Routes
from nas.space import Space


class RunsNetwork(nn.Module):
    """R networks side by side over reshaped layers, whose blocks may hold some of the runs only.

    readers: {layer: the runs that read it}. held: {how the names of a block and of its parameters, or of a place with
    dropout, begin: the runs that it holds}, where that is not all.
    """

    def __init__(
        self, readers: Mapping[str, Runs], in_channels: Mapping[str, int], channels: int, length: int, runs: int
    ) -> None:
        super().__init__()
        self.runs = tuple(range(runs))
        self.readers, self.in_channels, self.channels, self.length = readers, in_channels, channels, length
        self.held = {**readers, **{f"reshape.{module_key(name)}": of_layer for name, of_layer in readers.items()}}
        self.reshape = nn.ModuleDict(
            {module_key(name): ConvBlock(len(held), in_channels[name], channels) for name, held in readers.items()}
        )

    def blank(self, runs: Sequence[int]) -> Self:
        """Return new networks of the architectures of these runs, in this order."""
        raise NotImplementedError

    def reshaped(self, features: Mapping[str, Tensor], how: Pass) -> dict[str, Tensor]:
        """Return {layer: (its readers, B, L, C)} of features {layer: (its readers or 1, B, L, C_in)}.

        Of a window that lacks a layer it is 0, whatever the block has learnt. For a batch norm's statistics it then
        counts as the mean of the others: how many there are shows in the variance, nothing else does.
        """
        return {name: self._reshaped(name, features[name], how) for name in self.readers}

    def _reshaped(self, name: str, x: Tensor, how: Pass) -> Tensor:
        key, readers = module_key(name), len(self.readers[name])
        block, runs, there = self.reshape[key], len(self.held[f"reshape.{key}"]), None
        if name in how.gaps:
            there = (x != 0).any(3, keepdim=True).any(2, keepdim=True)
            if how.statistics != "running":
                total = x.flatten(1, 2).sum(1)[:, None, None]  # what is not there adds nothing
                x = torch.where(there, x, total / (there.sum(1, keepdim=True) * x.shape[2]).clamp(min=1))
        out: Tensor = block(x.expand(runs, -1, -1, -1), how=how, site=name)
        out = out if there is None else out * there
        return out if runs == readers else out.expand(readers, -1, -1, -1)

    def reshape_once(self) -> None:
        """Have one block reshape a layer for all that read it, where the weights of all of them are the same."""
        for name, readers in self.readers.items():
            key = module_key(name)
            self.reshape[key] = ConvBlock(1, self.in_channels[name], self.channels)
            self.held[f"reshape.{key}"] = readers[:1]

    def runs_of(self, name: str) -> Runs:
        """Return the runs of a block, parameter, buffer or place with dropout, in the order of its first axis."""
        if name in self.held:
            return self.held[name]
        return next((runs for start, runs in self.held.items() if name.startswith(f"{start}.")), self.runs)

    def initialise(self, seeds: Sequence[int]) -> None:
        """Set the initial values of every run, which its seed and the names of its blocks decide."""
        initialise_blocks(self, lambda name: [seeds[r] for r in self.runs_of(name)])

    def rows(self, name: str, runs: Collection[int]) -> list[int]:
        """Return which rows of a parameter's or buffer's first axis hold the given runs."""
        return [row for row, run in enumerate(self.runs_of(name)) if run in runs]

    def take(self, runs: Sequence[int]) -> Self:
        """Return these runs, in ascending order, as networks of their own; their values are copies."""
        network, state = self.blank(runs), self.state_dict()
        network.load_state_dict({name: state[name][self.rows(name, runs)] for name in network.state_dict()})
        return network.to(next(iter(state.values())).device)


class Network(RunsNetwork):
    """R fusion networks. users[i][t]: {operation: the runs that use it} in step t of cell i.

    head: what the classifier reads of the cells' outputs (L, C): their mean over time, or all of them, flattened.
    """

    def __init__(  # noqa: PLR0917 - subclasses call it
        self,
        readers: Mapping[str, Runs],
        users: Sequence[Sequence[Mapping[str, Runs]]],
        in_channels: Mapping[str, int],
        channels: int,
        length: int,
        seeds: Sequence[int],
        head: Head,
    ) -> None:
        super().__init__(readers, in_channels, channels, length, len(seeds))
        self.head: Head = head
        for i, of_cell in enumerate(users):
            for t, of_step in enumerate(of_cell):
                for start in (f"cells.{i}.steps.{t}.operations", f"{cell_name(i)}.{step_name(t)}"):
                    self.held |= {f"{start}.{operation}": runs for operation, runs in of_step.items()}
        self.cells = nn.ModuleList(FusionCell(len(seeds), of_cell, channels, length) for of_cell in users)
        self.classifier = Linear(len(seeds), len(users) * channels * (length if head == "flatten" else 1), 2)
        self.initialise(seeds)

    def logits(self, features: Mapping[str, Tensor], reading: Mixture | Routes, how: Pass) -> Tensor:
        """Return logits (R, B, 2) of features {layer: (its readers or 1, B, L, C_in)}."""
        layers = self.reshaped(features, how)
        outputs: list[Tensor] = []
        for i, cell in enumerate(self.cells):
            outputs.append(cell(*reading.cell(i, layers, outputs), reading, i, how))
        joined = torch.cat(outputs, dim=3) if len(outputs) > 1 else outputs[0]  # cat copies even a single one
        x = F.relu(normalise(joined))
        return self.classifier(x.flatten(2) if self.head == "flatten" else x.mean(2))  # type: ignore[no-any-return]


class FusionCell(Block):
    """One cell: steps, their weighted sum, 1x1 convolution block, residual, layer norm."""

    def __init__(self, runs: int, users: Sequence[Mapping[str, Runs]], channels: int, length: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(FusionStep(of_step, channels, length) for of_step in users)
        self.step_weights = nn.Parameter(torch.ones(runs, 1, len(users)))
        self.output = ConvBlock(runs, channels, channels)
        self.norm = LayerNorm(runs, channels, length)

    def forward(self, x: Tensor, y: Tensor, reading: Mixture | Routes, i: int, how: Pass) -> Tensor:
        """Return the output (R, B, L, C) of cell i, which reads x and y."""
        outputs: list[Tensor] = []
        for t, step in enumerate(self.steps):
            slots = reading.step(i, t, x, y, outputs)
            outputs.append(reading.result(i, t, step(slots, how, f"{cell_name(i)}.{step_name(t)}")))
        (fused,) = blend(outputs, self.step_weights)
        return self.norm(self.output(fused, how=how, site=cell_name(i)) + x)  # type: ignore[no-any-return]


class FusionStep(nn.Module):
    """One step: its operations, each on the runs that use it."""

    def __init__(self, users: Mapping[str, Runs], channels: int, length: int) -> None:
        super().__init__()
        self.operations = nn.ModuleDict(
            {name: OPERATIONS[name](len(runs), channels, length) for name, runs in users.items()}
        )

    def forward(self, slots: Iterator[tuple[Tensor, Tensor]], how: Pass, site: str) -> list[Tensor]:
        """Return the operations' outputs; slots: what each of them reads."""
        pairs = zip(self.operations.items(), slots, strict=True)
        return [operation(x, y, how, f"{site}.{name}") for (name, operation), (x, y) in pairs]


class FusionNetwork(Network):
    """R networks of the same space side by side; a mix decides what each of them reads."""

    def __init__(
        self,
        space: Space,
        in_channels: Mapping[str, int],
        *,
        channels: int,
        length: int,
        seeds: Sequence[int],
        head: Head = "mean",
    ) -> None:
        every = tuple(range(len(seeds)))
        readers = dict.fromkeys(space.layers, every)
        users = [[dict.fromkeys(space.operations, every)] * space.steps] * space.cells
        super().__init__(readers, users, in_channels, channels, length, seeds, head)
        self.space = space

    def forward(self, features: Mapping[str, Tensor], mix: Mix, how: Pass) -> Tensor:
        """Return logits (R, B, 2) of features {layer: (R, B, L, C_in)}; R may be 1 where all runs read the same."""
        return self.logits(features, Mixture(mix), how)


class FixedNetwork(Network):
    """R derived networks, run r of architecture genotypes[r]; all have as many cells, and cells as many steps.

    Each block holds only the runs that use it.
    """

    def __init__(
        self,
        genotypes: Sequence[Genotype],
        in_channels: Mapping[str, int],
        *,
        channels: int,
        length: int,
        seeds: Sequence[int],
        head: Head = "mean",
    ) -> None:
        routes = Routes(genotypes)
        super().__init__(routes.readers, routes.users, in_channels, channels, length, seeds, head)
        self.genotypes, self.routes = genotypes, routes

    def state_of(self, run: int) -> dict[str, Tensor]:
        """Return the parameters and buffers of one run, each (1, ...): what it would hold alone."""
        rows = {name: (value, self.rows(name, (run,))) for name, value in self.state_dict().items()}
        return {name: value[own] for name, (value, own) in rows.items() if own}

    def blank(self, runs: Sequence[int]) -> Self:
        """Return new networks of the architectures of these runs, in this order."""
        genotypes = [self.genotypes[r] for r in runs]
        sizes = {"channels": self.channels, "length": self.length}
        return type(self)(genotypes, self.in_channels, **sizes, seeds=(0,) * len(runs), head=self.head)

    def forward(self, features: Mapping[str, Tensor], how: Pass) -> Tensor:
        """Return logits (R, B, 2) of features {layer: (its readers, B, L, C_in)}.

        The leading axis of a layer, and of a site's dropout scales, may be 1 where all readers share them.
        """
        return self.logits(features, self.routes, how)

    @classmethod
    def share(
        cls, genotypes: Sequence[Genotype], weights: Mapping[str, Tensor], in_channels: Mapping[str, int]
    ) -> Self:
        """Return networks that use weights of a supernet: all those of one run {name: (1, ...)}, or each its own."""
        network = cls(genotypes, in_channels, **_sizes(weights), seeds=(0,) * len(genotypes))
        if len(weights["classifier.bias"]) == 1:
            network.reshape_once()
        network.to(weights["classifier.bias"].device)
        shared = {
            name: weights[name].expand(len(genotypes), *value.shape[1:])[list(network.runs_of(name))]
            for name, value in network.state_dict().items()
        }
        network.load_state_dict(shared)
        return network


class Supernet(nn.Module):
    """A fusion network with every candidate, and the architecture parameters that mix them: two parameter sets."""

    def __init__(
        self,
        space: Space,
        in_channels: Mapping[str, int],
        *,
        channels: int,
        length: int,
        seeds: Sequence[int],
        head: Head = "mean",
    ) -> None:
        super().__init__()
        self.fusion = FusionNetwork(space, in_channels, channels=channels, length=length, seeds=seeds, head=head)
        self.architecture = ArchitectureParameters(space, seeds)

    def forward(self, features: Mapping[str, Tensor], mix: Mix, how: Pass) -> Tensor:
        """Return logits (R, B, 2) under the given mix."""
        return self.fusion(features, mix, how)  # type: ignore[no-any-return]


class CompactNetwork(nn.Module):
    """One derived network for scoring: evaluation only, whatever `train()` and `eval()` say.

    It is a FixedNetwork with R = 1, so its parameters have the names of the supernet's and a leading axis of length 1.
    """

    def __init__(
        self, genotype: Genotype, in_channels: Mapping[str, int], *, channels: int, length: int, head: Head = "mean"
    ) -> None:
        super().__init__()
        layers = genotype.layers()
        missing = [name for name in layers if name not in in_channels]
        if missing:
            raise ValueError(f"in_channels lacks {missing}, which the genotype reads; given: {sorted(in_channels)}")
        self.genotype = genotype
        self.in_channels = {name: int(in_channels[name]) for name in layers}
        self.channels = channels
        self.length = length
        self.head = head
        self.fusion = FixedNetwork(
            [genotype], self.in_channels, channels=channels, length=length, seeds=(0,), head=head
        )

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return logits (B, 2) of features {layer: (B, L, C_in)}; layers beyond the genotype's are ignored.

        Of a window that has no sound, or no picture, the layers of it are zeros: they are left out of its score.
        """
        for name, width in self.in_channels.items():
            if name not in features or tuple(features[name].shape[1:]) != (self.length, width):
                given = tuple(features[name].shape) if name in features else "missing"
                raise ValueError(f"features[{name!r}] is {given}; allowed: (B, {self.length}, {width})")
        weight = self.fusion.classifier.weight
        inputs = {name: features[name].to(weight)[None] for name in self.in_channels}
        logits: Tensor = self.fusion(inputs, Pass(gaps=self.in_channels))[0]
        return logits

    @torch.no_grad()
    def predict(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return P(fake), (B,)."""
        return self(features).softmax(dim=1)[:, 1]  # type: ignore[no-any-return]

    def spec(self) -> dict[str, Any]:
        """Return what `from_spec` needs to build the network again, as plain JSON types; weights are apart."""
        return {
            "genotype": self.genotype.model_dump(mode="json"),
            "in_channels": dict(self.in_channels),
            "channels": self.channels,
            "length": self.length,
            "head": self.head,
        }

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """Return an untrained network of the given description; load its weights with `load_state_dict`.

        A description without a head is of the time when there was one only.
        """
        genotype = Genotype.model_validate(spec["genotype"])
        return cls(
            genotype,
            spec["in_channels"],
            channels=spec["channels"],
            length=spec["length"],
            head=spec.get("head", "flatten"),
        )

    @classmethod
    def from_weights(cls, genotype: Genotype, weights: Mapping[str, Tensor], in_channels: Mapping[str, int]) -> Self:
        """Return the network that holds, of one run's weights {name: (1, ...)}, those that the genotype uses."""
        network = cls(genotype, in_channels, **_sizes(weights))
        network.fusion.load_state_dict({name: weights[name].cpu() for name in network.fusion.state_dict()})
        return network


def _sizes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return channels, length and head of the networks whose weights {name: (R, ...)} these are."""
    length, channels = weights["cells.0.norm.weight"].shape[1:]
    cells = sum(name.endswith(".step_weights") for name in weights)
    flat = weights["classifier.weight"].shape[2] == cells * channels * length
    return {"channels": channels, "length": length, "head": "flatten" if flat else "mean"}


def module_key(layer: str) -> str:
    """Return a layer's name as part of a parameter's name, where torch allows no dots."""
    return layer.replace("%", "%25").replace(".", "%2E")
