"""`make bench-backbones`: what folded batch norms, half precision and onnxruntime do to speed and to features.

One window of 8 crops of 224 px, one thread; timm's plain network is what the others are measured against, all of them
in turn in one run, medians of 5. Half precision is slow where the CPU has no instructions for it: it is measured once.
What is faster and within its limit is worth it: folding is then done by itself, the others by parameter.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.side_by_side import MACHINE, in_turn, taken_s
from pipeline.backbones import Backbone, load_backbone, pool
from pipeline.backbones.fusing import relative_error
from pipeline.backbones.onnx_runtime import MissingRuntimeError
from pipeline.backbones.timm_family import create
from pipeline.params import BackboneParams

LENGTH = 8
T, S = 8, 224
NETWORKS = (("tf_efficientnet_lite0", "bundled"), ("resnet34", "seed:0"))
LIMITS = {"full": 1e-4, "half": 1e-2}
Features = dict[str, torch.Tensor]


def main() -> None:
    """Measures every way of computing each network, in turn."""
    torch.set_num_threads(1)
    crops = torch.randint(0, 256, (1, T, S, S, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    columns = ("network", "way", "s per window", "times as fast", "relative error per layer", "limit", "worth it")
    table = Table(*columns, caption=MACHINE)
    for name, weights in NETWORKS:
        for row in _measure(name, weights, crops):
            errors = "  ".join(f"{error:.0e}" for error in row["errors"])
            ratio = f"{row['ratio']:.2f} x"
            worth = "yes" if row["ratio"] > 1 and max(row["errors"]) < row["limit"] else "no"
            table.add_row(name, row["way"], f"{row['seconds']:.3f}", ratio, errors, f"{row['limit']:.0e}", worth)
    Console(width=130).print(table)


def _measure(name: str, weights: str, crops: torch.Tensor) -> list[dict[str, Any]]:
    ways: dict[str, Callable[[], Features]] = {"timm's plain network": _plain(name, weights)(crops)}
    for way, more in (
        ("folded, channels-last", {}),
        ("onnxruntime", {"runtime": "onnxruntime"}),
        ("half precision", {"precision": "half"}),
    ):
        try:
            backbone = load_backbone("visual", BackboneParams(name=name, weights=weights, **more), "cpu")
        except MissingRuntimeError as error:
            Console(stderr=True).print(f"left out: {error}")
            continue
        ways[way] = _call(backbone, crops)
    slow = "half precision"
    features = {way: compute() for way, compute in ways.items()}
    seconds = in_turn({way: ways[way] for way in ways if way != slow}) | {slow: taken_s(ways[slow])}
    plain = "timm's plain network"
    return [
        {
            "way": way,
            "seconds": seconds[way],
            "ratio": seconds[plain] / seconds[way],
            "errors": [relative_error(x, features[plain][layer]) for layer, x in features[way].items()],
            "limit": LIMITS["half" if way == slow else "full"],
        }
        for way in seconds
    ]


def _plain(name: str, weights: str) -> Callable[[torch.Tensor], Callable[[], Features]]:
    """timm's network as it comes, in eager mode, with its maps pooled as ours are."""
    params = BackboneParams(name=name, weights=weights)
    net = create("visual", params, features_only=True, out_indices=(1, 2, 3, 4)).eval()
    config = net.pretrained_cfg
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    names = [f"visual/{name}.{info['module']}" for info in net.feature_info.get_dicts()]

    def on(crops: torch.Tensor) -> Callable[[], Features]:
        @torch.inference_mode()
        def compute() -> Features:
            maps = net(((crops[0].permute(0, 3, 1, 2).float() / 255 - mean) / std).contiguous())
            pooled = [pool(x.transpose(0, 1)[None], length=LENGTH, kinds=params.pool) for x in maps]
            return dict(zip(names, pooled, strict=True))

        return compute

    return on


def _call(backbone: Backbone, crops: torch.Tensor) -> Callable[[], Features]:
    return lambda: backbone(crops, length=LENGTH)


if __name__ == "__main__":
    main()
