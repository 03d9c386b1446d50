"""`pytest tests/nas --device cuda`: the same tests on another device."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

DRAWN = (torch.rand, torch.randn, torch.randint, torch.randperm)
ALIKE = {torch.rand_like: torch.rand, torch.randn_like: torch.randn}
READ = (torch.Tensor.numpy, torch.Tensor.__array__)
FILLED = (torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.exponential_)


class Drawn(TorchFunctionMode):
    """Draws on the CPU what tests draw, and moves it: their generators are the CPU's, and a device needs its own."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in ALIKE:
            func, args, kwargs = ALIKE[func], (args[0].shape,), {"dtype": args[0].dtype, **kwargs}
        if func in DRAWN:
            leaf = kwargs.pop("requires_grad", False)
            return func(*args, **kwargs | {"device": "cpu"}).to(self.device).requires_grad_(leaf)
        if func in READ:  # by sklearn and numpy, which tests compare with
            return func(args[0].detach().cpu(), *args[1:], **kwargs)
        if func in FILLED:
            target, *rest = args
            drawn = func(torch.empty(target.shape, dtype=target.dtype, device="cpu"), *rest, **kwargs)
            return target.copy_(drawn)
        return func(*args, **kwargs)


def pytest_configure(config: pytest.Config) -> None:
    """Puts on the device what names none, in tests' modules, too: they have constants."""
    device = torch.device(config.getoption("--device"))
    if device.type != "cpu":
        torch.set_default_device(device)
        Drawn(device).__enter__()
