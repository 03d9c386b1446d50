"""Annotations that name shapes are checked at every call, in tests: tests/conftest.py has this put on functions."""

from collections.abc import Callable
from typing import TypeVar

from beartype import beartype

F = TypeVar("F", bound=Callable[..., object])


def check_shapes(function: F) -> F:
    """The function, checked by beartype if an annotation of it names a shape.

    All others stay as they are: what callers may not give them is refused by their own errors, which have tests.
    """
    hints = getattr(function, "__annotations__", {}).values()
    return beartype(function) if any("Tensor, " in str(hint) for hint in hints) else function
