"""The package's names: each is there, typed and lazy."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import bmnas

ROOT = Path(__file__).parents[2]
CODE = "import json, sys; import bmnas; print(json.dumps([dir(bmnas), list(sys.modules)]))"


def test_importing_bmnas_imports_nothing_else() -> None:
    said = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    names, modules = json.loads(said)
    assert names == sorted(bmnas.__all__)
    assert not {"torch", "numpy", "pydantic", "pipeline", "nas", "cache_schemas"} & set(modules)


@pytest.mark.parametrize("name", bmnas.__all__)
def test_each_name_is_there_and_says_what_it_is(name: str) -> None:
    assert getattr(bmnas, name).__name__ == name
    assert getattr(bmnas, name).__doc__


def test_what_a_type_checker_sees_is_what_is_there() -> None:
    tree = ast.parse(Path(bmnas.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert sorted(seen) == sorted(bmnas.__all__)
    assert seen == bmnas._PLACES


def test_another_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(AttributeError, match="bmnas has no 'Detektor'; it has Answer, "):
        bmnas.Detektor  # noqa: B018
