"""What the tests of oracle and sweep share: small settings, and batches that are counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pipeline.params import Params

SEARCH = {
    "channels": 4, "epochs": 2, "warmup_epochs": 1, "batch_size": 16, "samples": 2, "min_steps_per_epoch": 2,
    "cells": 1, "steps": 1,
}  # fmt: skip
RETRAIN = {"channels": 4, "epochs": 2, "batch_size": 16, "min_steps_per_epoch": 2}


def small(**changes: Any) -> Params:
    """Parameters of seconds, in this process."""
    content = {"search": SEARCH, "retrain": RETRAIN, "compute": {"workers": 1, "device": "cpu"}, **changes}
    return Params.model_validate(content)


class Counted:
    """A function over batches that remembers how many runs it was given."""

    def __init__(self, function: Callable[[Any], Sequence[Any]]) -> None:
        self.function, self.runs = function, 0

    def __call__(self, batch: Any) -> Sequence[Any]:
        """What the function returns."""
        self.runs += len(batch.keys)
        return self.function(batch)
