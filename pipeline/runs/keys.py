"""What goes into a run's key beside the cache: the settings that are not at their default, and the code that runs."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cache_schemas.files import digest
from pipeline.params import Params

FOLLOWED = "nas"
"""The package whose imports count as well: what a run computes. What is around it plans, keeps and draws."""


def settings_of(config: BaseModel) -> dict[str, Any]:
    """What a config says beside its defaults, but for the device: a new field of configs renames no run."""
    return config.model_dump(mode="json", exclude={"device"}, exclude_defaults=True)


def made_by(params: Params) -> dict[str, Any]:
    """How networks are found and trained, beside the cache that they learn from, in JSON's types."""
    configs = {name: getattr(params, name) for name in ("search", "retrain")}
    found = {name: config.model_dump(mode="json", exclude={"device"}) for name, config in configs.items()}
    return found | {"seeds": list(params.seeds)}


def code_version(*functions: Callable[..., Any]) -> str:
    """A digest of the modules of these functions, and of all modules of nas that they come to import.

    A finished run of other code is no longer the run that is asked for. Comments, docstrings, layout and descriptions
    of settings do not count; a default that changes does.
    """
    return _digest(tuple(function.__module__ for function in functions))


@cache
def _digest(names: tuple[str, ...]) -> str:
    found: dict[str, str] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            tree = _Bare().visit(ast.parse(Path(str(sys.modules[name].__file__)).read_bytes()))
            found[name] = ast.unparse(tree)
            waiting += _imported(tree)
    return digest(found)


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            if node.module.startswith(f"{FOLLOWED}."):
                yield node.module
            elif node.module == FOLLOWED:
                yield from (name for alias in node.names if (name := f"{FOLLOWED}.{alias.name}") in sys.modules)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith(f"{FOLLOWED}."))


class _Bare(ast.NodeTransformer):
    """Leaves out what only people read: strings that stand alone, and descriptions of settings."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        """Nothing, for a docstring."""
        text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return ast.Pass() if text else self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """The call without `description=`."""
        node.keywords = [keyword for keyword in node.keywords if keyword.arg != "description"]
        return self.generic_visit(node)
