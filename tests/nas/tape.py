"""A CUDA graph acted on the CPU: a tape of every operation of torch, which later runs on the very same memory."""

from collections import Counter
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "bincount", "lift_fresh")
"""What reads a value back, makes a shape of values, or carries numbers of Python to the device."""


def tensors(of: object) -> list[Tensor]:
    return [x for x in tree_leaves(of) if isinstance(x, Tensor)]


class RefusedError(RuntimeError):
    """What a graph cannot hold."""


class Operations(TorchDispatchMode):
    """Counts the operations that start a kernel on a GPU, and refuses what a graph cannot hold."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._overloadpacket._qualified_op_name.removeprefix("aten::")
        masks = name.startswith("index") and any(x.dtype in (torch.bool, torch.uint8) for x in tensors(args[1:2]))
        devices = {x.device for x in tensors((args, kwargs))} | {torch.device((kwargs or {}).get("device") or "cpu")}
        if name in WAITS or masks or len(devices) > 1:
            raise RefusedError(f"{name}, which waits for the device or for Python")
        out = func(*args, **(kwargs or {}))
        self.done(func, name, args, kwargs or {}, out)
        return out

    def done(self, func: Any, name: str, args: Any, kwargs: Any, out: Any) -> None:
        views = any(result.alias_info is not None and not result.alias_info.is_write for result in func._schema.returns)
        if not (views or name.startswith(("empty", "new_empty"))):
            self.counts[name] += 1


class Tape(Operations):
    """Records operations; what they changed outside is put back, as a capture runs none of them."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded: list[tuple[Any, Any, Any, Any]] = []
        self.made: set[int] = set()
        self.before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for place, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                given = args[place] if place < len(args) else (kwargs or {}).get(argument.name)
                for x in tensors(given):
                    self._keep(x)
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _keep(self, x: Tensor) -> None:
        place = x.untyped_storage().data_ptr()
        if place not in self.made and place not in self.before:
            whole = torch.empty(0, dtype=torch.uint8).set_(x.untyped_storage())
            self.before[place] = whole, whole.clone()

    def done(self, func: Any, name: str, args: Any, kwargs: Any, out: Any) -> None:
        super().done(func, name, args, kwargs, out)
        outside = {x.untyped_storage().data_ptr() for x in tensors((args, kwargs))}
        self.made |= {x.untyped_storage().data_ptr() for x in tensors(out)} - outside
        self.recorded.append((func, args, kwargs, out))

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        for place, value in self.before.values():
            place.copy_(value)

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, out in self.recorded:
            for mine, anew in zip(tensors(out), tensors(func(*args, **kwargs)), strict=True):
                if mine.data_ptr() != anew.data_ptr():
                    mine.copy_(anew)


class Stream:
    """As much of torch.cuda.Stream as there is to it on one device."""

    device = torch.device("cpu")

    def wait_stream(self, other: "Stream") -> None:
        pass


def act(monkeypatch: Any) -> Any:
    """Puts tapes in the place of CUDA's graphs; returns the stream that a `Captured` then needs."""
    stream = Stream()
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Tape)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, stream: graph)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    return stream
