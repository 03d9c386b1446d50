"""The compact network: one run of a fusion network with nothing left but the chosen candidates."""

import json
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from nas.fixed import FixedNetwork
from nas.genotype import Genotype
from nas.layers import EVALUATION


class CompactNetwork(nn.Module):
    """One derived network for scoring: evaluation only, whatever `train()` and `eval()` say.

    It is a FixedNetwork with R = 1, so its parameters have the names of the supernet's and a leading axis of length 1.
    """

    def __init__(self, genotype: Genotype, in_channels: Mapping[str, int], *, channels: int, length: int) -> None:
        super().__init__()
        layers = genotype.layers()
        missing = [name for name in layers if name not in in_channels]
        if missing:
            raise ValueError(f"in_channels lacks {missing}, which the genotype reads; given: {sorted(in_channels)}")
        self.genotype = genotype
        self.in_channels = {name: int(in_channels[name]) for name in layers}
        self.channels = channels
        self.length = length
        self.fusion = FixedNetwork([genotype], self.in_channels, channels=channels, length=length, seeds=(0,))

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return logits (B, 2) of features {layer: (B, L, C_in)}; layers beyond the genotype's are ignored."""
        for name, width in self.in_channels.items():
            if name not in features or tuple(features[name].shape[1:]) != (self.length, width):
                given = tuple(features[name].shape) if name in features else "missing"
                raise ValueError(f"features[{name!r}] is {given}; allowed: (B, {self.length}, {width})")
        weight = self.fusion.classifier.weight
        inputs = {name: features[name].to(weight)[None] for name in self.in_channels}
        logits: Tensor = self.fusion(inputs, EVALUATION)[0]
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
        }

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """Return an untrained network of the given description; load its weights with `load_state_dict`."""
        genotype = Genotype.from_json(json.dumps(spec["genotype"]))
        return cls(genotype, spec["in_channels"], channels=spec["channels"], length=spec["length"])

    @classmethod
    def from_weights(cls, genotype: Genotype, weights: Mapping[str, Tensor], in_channels: Mapping[str, int]) -> Self:
        """Return the network that holds, of one run's weights {name: (1, ...)}, those that the genotype uses."""
        length, channels = weights["cells.0.norm.weight"].shape[1:]
        network = cls(genotype, in_channels, channels=channels, length=length)
        network.fusion.load_state_dict({name: weights[name].cpu() for name in network.fusion.state_dict()})
        return network
