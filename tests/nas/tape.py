"""What a CUDA graph can hold, and one acted on the CPU: a tape of operations, which run again on their memory."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = ("item", "nonzero", "masked_select", "equal", "_unique2", "bincount", "lift_fresh")
"""What reads a value back, makes a shape of values, or brings numbers of Python to the device."""


def waits(action: Callable[[], object]) -> set[str]:
    """What a graph cannot hold of the operations that torch says it does: a mode would see other ones of gradients.

    On the CPU fused Adam reads the learning rate back; on a GPU its kernel reads it.
    """
    with profile(use_kineto=False) as seen:
        action()
    return {
        event.name
        for event in seen.function_events
        if event.name.removeprefix("aten::") in WAITS
        and (event.cpu_parent is None or event.cpu_parent.name != "aten::_fused_adam_")
    }


def tensors(of: object) -> list[Tensor]:
    return [x for x in tree_leaves(of) if isinstance(x, Tensor)]


class Tape(TorchDispatchMode):
    """Records operations; what they changed outside is put back, as a capture runs none of them."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded: list[tuple[Any, Any, Any, Any]] = []
        self.made: set[int] = set()
        self.before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("a value is read back while a graph is captured")
        for place, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for x in tensors(args[place] if place < len(args) else kwargs.get(argument.name)):
                    self._keep(x)
        out = func(*args, **kwargs)
        outside = {x.untyped_storage().data_ptr() for x in tensors((args, kwargs))}
        self.made |= {x.untyped_storage().data_ptr() for x in tensors(out)} - outside
        self.recorded.append((func, args, kwargs, out))
        return out

    def _keep(self, x: Tensor) -> None:
        place = x.untyped_storage().data_ptr()
        if place not in self.made and place not in self.before:
            whole = torch.empty(0, dtype=torch.uint8).set_(x.untyped_storage())
            self.before[place] = whole, whole.clone()

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
