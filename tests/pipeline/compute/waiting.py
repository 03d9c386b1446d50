"""Waiting for what other processes do."""

import time
from collections.abc import Callable


def wait_for(found: Callable[[], object], seconds: float = 150.0) -> object:
    """The first true value of `found`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(0.01)
    raise AssertionError(f"nothing within {seconds:g} s")
