"""A detector's parts, computed by torch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from cache_schemas.run import RetrainRun
from pipeline.backbones import Backbone, bare_identity, load_backbone
from pipeline.compute.machine import device_of
from pipeline.detector.parts import Parts
from pipeline.detector.road import DetectorError
from pipeline.faces.networks import torch_networks
from pipeline.features.forward import MODALITIES
from pipeline.params import Params
from pipeline.runs.scoring import scores_of, trained_network
from pipeline.sound.clip import compute_spectrogram
from pipeline.workspace import Workspace


def torch_parts(workspace: Workspace, run: RetrainRun, params: Params) -> Parts:
    """On the device that `params` name; raises DetectorError where the backbones are others today."""
    device = device_of(params.compute)
    networks = [(entry.network, trained_network(workspace, entry).to(device).eval()) for entry in run.entries]
    return Parts(
        frozen(params, run.backbones),
        torch_networks(device),
        compute_spectrogram,
        [(name, partial(scores_of, network, device=device)) for name, network in networks],
    )


def frozen(params: Params, trained_on: Mapping[str, Mapping[str, Any]]) -> list[Backbone]:
    """The backbones; trained_on: {variant: a backbone's identity}; DetectorError where they are others today."""
    device = device_of(params.compute)
    found = [
        load_backbone(modality, chosen, device)
        for modality in MODALITIES
        for chosen in getattr(params.features, modality)
    ]
    made = [bare_identity(backbone.identity()) for backbone in found]
    if made != [bare_identity(identity) for identity in trained_on.values()]:
        raise DetectorError(
            "predict: the backbones' weights are not those that the networks were trained on; "
            "restore them, or run `dvc repro` again"
        )
    return found
