"""The kernels of a step as one CUDA graph, which is replayed: no Python between them, and one launch for all."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

WARM_UP = 3
"""Steps before a capture, on its stream: what they make once, and what libraries set up there, then exists."""

Tensors = tuple[Tensor, ...]


class Captured:
    """Does a step; on a GPU it is captured after WARM_UP times, and replayed from then on.

    What a step reads and changes must be tensors that stay where they are, and whatever differs from one time to the
    next must be in them, or in its inputs. With other settings it is captured anew. stream: what it is captured on;
    None: every step is done as it is written.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self.settings: dict[str, Any] = {}
        self.forget()

    def forget(self) -> None:
        """Capture anew, as where the step changes other tensors from now on; the memory of a step is free."""
        self.done = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: Tensors = ()
        self.outputs: Tensors = ()

    def __call__(self, step: Callable[..., Tensors], *inputs: Tensor, **settings: Any) -> Tensors:
        """Return step(*inputs, **settings); inputs have the same shapes every time."""
        if settings != self.settings:
            self.settings = settings
            self.forget()
        if self.stream is not None and self.done == WARM_UP:
            self._capture(self.stream, step, inputs)
        self.done += 1
        if self.stream is None:
            return step(*inputs, **settings)
        if self.graph is None:
            return self._aside(self.stream, step, inputs)
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.graph.replay()
        return tuple(x.clone() for x in self.outputs)  # which the next replay writes over

    def _aside(self, stream: torch.cuda.Stream, step: Callable[..., Tensors], inputs: Tensors) -> Tensors:
        """Return what the step gives on another stream, behind what came before and before what comes next."""
        here = torch.cuda.current_stream(stream.device)
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            outputs = step(*inputs, **self.settings)
        here.wait_stream(stream)
        return outputs

    def _capture(self, stream: torch.cuda.Stream, step: Callable[..., Tensors], inputs: Tensors) -> None:
        """Capture the step, without doing it; where that fails, every step is done as it is written from then on."""
        graph, self.inputs = torch.cuda.CUDAGraph(), tuple(x.clone() for x in inputs)
        try:
            # On the stream twice: a graph whose capture fails does not leave it again.
            with torch.cuda.stream(stream), torch.cuda.graph(graph, stream=stream):
                self.outputs = step(*self.inputs, **self.settings)
            self.graph = graph
        except RuntimeError as error:
            reason = str(error.__context__ or error).partition("\n")[0]
            self.forget()
            self.stream = None
            warnings.warn(
                f"a step could not be captured as one CUDA graph ({reason}): its kernels are launched one by one, "
                "which gives the same, but takes longer",
                stacklevel=2,
            )
