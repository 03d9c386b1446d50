"""Settings of the whole suite."""

import os
import re
from pathlib import Path
from typing import Any

# Before torch is imported: see pipeline/cli/__init__.py. One thread, for the suite runs in two processes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

from tests.shapes import check_shapes

# Shapes in annotations are checked in tests only, in modules that name some: the hook slows down each call a little.
ROOT = Path(__file__).parents[1]
FILES = [*ROOT.glob("nas/*.py"), *ROOT.glob("pipeline/backbones/*.py")]
SHAPED = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in FILES if "jaxtyping" in file.read_text()]
install_import_hook(SHAPED, f"{check_shapes.__module__}.{check_shapes.__name__}")

# No deadlines: how long an example takes says more about the machine than about the code.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    """--device is for tests/nas and tests/gpu."""
    parser.addoption(
        "--device", default="cpu", help="torch device of the tests in tests/nas and tests/gpu; default: cpu"
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Each file in one worker; those that need a whole run in the same one: it takes half a minute to make."""
    from xdist.scheduler import LoadFileScheduling

    class OneRun(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "a whole run" if re.search(r"\b(small_run|evaluated): ", (ROOT / file).read_text()) else file

    return OneRun(config, log)
