"""Where a backbone's weights come from. Tensors only: no pickle is loaded that could run code."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import safetensors.torch
import torch

from pipeline.backbones.words import BackboneError
from pipeline.params import NetworkParams, transformers_folder

State = dict[str, torch.Tensor]
Chosen = TypeVar("Chosen", bound=NetworkParams)


def resolved(params: Chosen) -> Chosen:
    """The same with whole paths, if it names some: for a process that has started in another folder."""
    return moved(params, Path.resolve)


def moved(params: Chosen, to: Callable[[Path], Path]) -> Chosen:
    """The same with the files and folders that it names where `to` has them."""
    given = {}
    kind, _, value = params.weights.partition(":")
    if kind == "file":
        given["weights"] = f"file:{to(Path(value))}"
    kind, _, value = params.name.partition(":")
    folder = transformers_folder(params.name)
    if kind == "onnx":
        path, mark, taps = value.partition("#")
        given["name"] = f"onnx:{to(Path(path))}{mark}{taps}"
    elif folder is not None:
        given["name"] = f"transformers:{to(Path(folder))}"
    return params.model_copy(update=given)


def files_of(params: NetworkParams) -> list[Path]:
    """Every file that it names, those that are read of a folder included."""
    found: list[Path] = []

    def note(path: Path) -> Path:
        found.extend([file for kind in ("*.json", "*.safetensors") for file in path.glob(kind)] or [path])
        return path

    moved(params, note)
    return found


@contextlib.contextmanager
def seeded(params: NetworkParams) -> Iterator[None]:
    """Inside, torch draws from the seed of `weights: seed:N` (0 for other weights); outside, nothing has changed."""
    kind, _, value = params.weights.partition(":")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(value) if kind == "seed" else 0)
        yield


def read_state(params: NetworkParams, hub: Callable[[], Mapping[str, torch.Tensor]]) -> State | None:
    """The tensors that `weights` names; None for seed:N. `hub` downloads them by the family's own means."""
    kind, _, value = params.weights.partition(":")
    if kind == "seed":
        return None
    if kind == "file":
        return read_file(Path(value))
    if kind == "bundled":
        raise BackboneError(f"backbone {params.name} has no bundled weights; use hub, file:PATH or seed:N")
    try:
        return dict(hub())
    except Exception as error:
        raise BackboneError(
            f"backbone {params.name}: its weights cannot be downloaded: {error}; without network use file:PATH"
        ) from error


def read_file(path: Path) -> State:
    """The tensors in a safetensors file, or in a .pth that weights_only accepts; one with code in it is refused."""
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise BackboneError(
            f"weights {path}: no such file (`bmnas pretrain` writes those of work/pretrain; see docs/backbones.md)"
        ) from None
    except Exception as error:
        raise BackboneError(f"weights {path}: {error}; convert them to safetensors") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(isinstance(x, torch.Tensor) for x in loaded.values()):
        raise BackboneError(f"weights {path}: not a table of tensors; save the network's state_dict()")
    return dict(loaded)


def load_state(net: torch.nn.Module, state: Mapping[str, torch.Tensor], name: str, *, ignore: tuple[str, ...]) -> None:
    """Loads every tensor of `net`; raises BackboneError for one too few or too many. `ignore`: heads, by prefix."""
    wanted = {key for key in net.state_dict() if not key.endswith("num_batches_tracked")}
    kept = {key: tensor for key, tensor in state.items() if not key.startswith(ignore)}
    missing = sorted(key for key in wanted - kept.keys() if not key.startswith(ignore))
    try:
        unexpected = net.load_state_dict(kept, strict=False).unexpected_keys
    except RuntimeError as error:
        raise BackboneError(f"weights of backbone {name}: {error}") from None
    if missing or unexpected:
        what = f"lack {missing[0]}" if missing else f"have {sorted(unexpected)[0]}, which the network has not"
        raise BackboneError(
            f"weights of backbone {name}: they {what} ({len(missing)} missing, {len(unexpected)} unknown): "
            "they belong to another network"
        )
