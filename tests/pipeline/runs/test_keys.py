"""What makes a finished run another run: the code that computed it, and settings that are not at their default."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import BaseModel, Field

import nas
from pipeline.runs import keys
from pipeline.runs.keys import code_version, settings_of

MAIN = '''
"""What it is for."""
from nas_like.parts import LIMIT  # a comment

def compute(x: int) -> int:
    """A docstring."""
    return min(x, LIMIT)
'''
PARTS = 'LIMIT = 3\nRATE = Field(default=1, description="how fast")\n'


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "nas_like"
    folder.mkdir()
    for name, text in (("main", MAIN), ("parts", PARTS), ("other", "LIMIT = 9\n")):
        (folder / f"{name}.py").write_text(text)
        module = ModuleType(f"nas_like.{name}")
        module.__file__ = str(folder / f"{name}.py")
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(keys, "FOLLOWED", "nas_like")
    return folder


def version() -> str:
    def compute() -> None: ...

    compute.__module__ = "nas_like.main"
    keys._digest.cache_clear()
    return code_version(compute)


def test_only_what_computes_is_part_of_the_code_version(package: Path) -> None:
    before = version()
    (package / "main.py").write_text(
        MAIN.replace("a comment", "another").replace("A docstring", "Words").replace("x, L", "x,L")
    )
    (package / "parts.py").write_text(PARTS.replace("how fast", "how slow"))
    (package / "other.py").write_text("LIMIT = 10\n")
    assert version() == before
    (package / "parts.py").write_text(PARTS.replace("3", "4"))
    changed = version()
    assert changed != before, "a module that it imports counts"
    (package / "main.py").write_text(MAIN.replace("min", "max"))
    assert version() not in (before, changed)


def test_searches_depend_on_their_own_modules_only() -> None:
    keys._digest.cache_clear()
    assert code_version(nas.search) == code_version(nas.search) != code_version(nas.retrain)


def test_settings_at_their_default_and_the_device_are_left_out() -> None:
    assert settings_of(nas.SearchConfig()) == {}
    assert settings_of(nas.SearchConfig(samples=3, device="cpu")) == {"samples": 3}

    class Later(BaseModel):
        samples: int = Field(default=15)
        device: str | None = None
        invented: float = 0.5

    assert settings_of(Later(samples=3)) == {"samples": 3}, "a new field renames no run"
