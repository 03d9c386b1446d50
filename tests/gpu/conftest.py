"""`pytest tests/gpu --device cuda`; without --device the CPU is held to itself, so that the tests stay runnable."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--device"))


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """Without TF32, which keeps ten bits of what a product multiplies."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = products.fp32_precision, convolutions.fp32_precision
    products.fp32_precision = convolutions.fp32_precision = "ieee"
    yield
    products.fp32_precision, convolutions.fp32_precision = before
