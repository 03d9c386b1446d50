"""A retrained network's scores of windows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

import nas
from cache_schemas.run import RetrainEntry
from pipeline.workspace import Workspace

_BATCH_WINDOWS = 512


def trained_network(workspace: Workspace, entry: RetrainEntry) -> nas.CompactNetwork:
    """The network of an entry of retrain.json, with its weights, on the CPU."""
    network = nas.CompactNetwork.from_spec(entry.spec)
    network.load_state_dict(load_file(workspace.retrain / entry.weights))
    return network


def score_windows(
    workspace: Workspace, entry: RetrainEntry, features: Mapping[str, torch.Tensor], device: str
) -> NDArray[np.float64]:
    """P(fake) of every window, (N,), in the order of `features`: {layer: (N, L, C_in)}."""
    network = trained_network(workspace, entry).to(device).eval()
    return scores_of(network, {name: features[name].numpy() for name in network.in_channels}, device)


def scores_of(network: nas.CompactNetwork, features: Mapping[str, NDArray[Any]], device: str) -> NDArray[np.float64]:
    """The same by a network that is there already, on the device and in evaluation mode."""
    wanted = {name: torch.from_numpy(features[name]) for name in network.in_channels}
    windows = len(next(iter(wanted.values())))
    parts = []
    for start in range(0, windows, _BATCH_WINDOWS):
        batch = {name: values[start : start + _BATCH_WINDOWS].to(device) for name, values in wanted.items()}
        parts.append(network.predict(batch).double().cpu().numpy())
    return np.concatenate(parts)
