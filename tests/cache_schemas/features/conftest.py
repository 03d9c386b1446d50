"""Where the tests' caches lie."""

from pathlib import Path

import pytest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a cache that no run has begun."""
    return tmp_path / "c.zarr"
