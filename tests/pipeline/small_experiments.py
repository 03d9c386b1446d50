"""What the tests of runs and experiments share: small settings, batches that are counted, and runs that fail."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import pytest

import nas
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

    def __init__(self, function: Callable[..., Sequence[Any]]) -> None:
        self.function, self.runs = function, 0

    def __call__(self, source: Any, batch: Any, **more: Any) -> Sequence[Any]:
        """What the function returns."""
        self.runs += len(batch.keys)
        return self.function(source, batch, **more)


def failing(
    name: str, seeds: Collection[int], monkeypatch: pytest.MonkeyPatch, calls: Collection[int] | None = None
) -> None:
    """Makes runs of nas.search or nas.retrain with these seeds diverge in epoch 1; calls: the calls that it befalls."""
    real, count = getattr(nas, name), 0

    @functools.wraps(real)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        hit, count = calls is None or count in calls, count + 1
        gone = {"found": None, "weights": None} if name == "search" else {"trained": None, "kept": None}
        results = [
            replace(result, error=nas.Diverged(result.seed, 1), **gone) if hit and result.seed in seeds else result
            for result in real(*args, **kwargs)
        ]
        if all(result.failed for result in results):
            results[0].error.results = results
            raise results[0].error
        return results

    monkeypatch.setattr(nas, name, call)
