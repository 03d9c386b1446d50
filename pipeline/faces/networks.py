"""facenet-pytorch's P-, R- and O-Net with their weights, computed by torch."""

from __future__ import annotations

import functools

import facenet_pytorch
import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.faces.mtcnn import Networks


class TorchNet:
    """One of them: arrays in and out."""

    def __init__(self, net: torch.nn.Module, device: str) -> None:
        self.net = net.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)
        self._device = device

    @torch.inference_mode()
    def __call__(self, pictures: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        x = torch.from_numpy(pictures).to(self._device).contiguous(memory_format=torch.channels_last)
        return tuple(found.cpu().numpy() for found in self.net(x))


@functools.cache
def torch_networks(device: str) -> Networks:
    """The three, on the device."""
    p, r, o = (TorchNet(net(), device) for net in (facenet_pytorch.PNet, facenet_pytorch.RNet, facenet_pytorch.ONet))
    return Networks(p, r, o) if device == "cpu" else Networks(p, r, o, pass_pixels=16_000_000, batch=512)
