"""facenet-pytorch's InceptionResnetV1, trained to tell people apart: `facenet:InceptionResnetV1`."""

from __future__ import annotations

import torch
from facenet_pytorch import InceptionResnetV1

from pipeline.backbones.base import ImageBackbone, choose_stages
from pipeline.backbones.weights import State, load_state, read_state, seeded
from pipeline.backbones.words import BackboneError, Modality
from pipeline.params import BackboneParams

VERSION = 1  # raise it when the same parameters and weights give other maps
_STAGES = (("conv2d_2b", 64), ("conv2d_4a", 192), ("repeat_1", 256), ("repeat_2", 896), ("block8", 1792))
_TRUNK = (
    "conv2d_1a", "conv2d_2a", "conv2d_2b", "maxpool_3a", "conv2d_3b", "conv2d_4a", "conv2d_4b", "repeat_1", "mixed_6a",
    "repeat_2", "mixed_7a", "repeat_3", "block8",
)  # fmt: skip
_HEAD = ("last_linear.", "last_bn.", "logits.")


def build(modality: Modality, params: BackboneParams) -> ImageBackbone:
    """The trunk up to its deepest chosen stage. `hub` means the weights trained on VGGFace2."""
    if params.name != "facenet:InceptionResnetV1":
        raise BackboneError(f"backbone {params.name}: facenet-pytorch has only facenet:InceptionResnetV1")
    if modality == "audio":
        raise BackboneError(f"backbone {params.name} knows faces: it is for features.visual only")
    with seeded(params):
        whole = InceptionResnetV1()
    state = read_state(params, _download)
    if state is not None:
        load_state(whole, state, params.name, ignore=_HEAD)
    chosen = [_STAGES[i] for i in choose_stages(params, len(_STAGES))]
    net = _Trunk(whole, [stage for stage, _ in chosen])
    # (x - 127.5) / 128, as the network was trained.
    return ImageBackbone(
        modality, params, net, stages=chosen, mean=[0.5] * 3, std=[128 / 255] * 3, example_px=96, version=VERSION
    )


class _Trunk(torch.nn.Module):
    """The parts of the network in order, up to the last one that is tapped."""

    def __init__(self, whole: torch.nn.Module, taps: list[str]) -> None:
        super().__init__()
        self.taps = taps
        for name in _TRUNK[: _TRUNK.index(taps[-1]) + 1]:
            self.add_module(name, whole.get_submodule(name))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """[(N, C, H, W)] of the taps."""
        maps = []
        for name, part in self.named_children():
            x = part(x)
            if name in self.taps:
                maps.append(x)
        return maps


def _download() -> State:
    # facenet-pytorch calls torch.load without more; torch >= 2.6 then takes tensors only.
    return dict(InceptionResnetV1(pretrained="vggface2").state_dict())
