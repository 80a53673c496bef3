"""Hashes of values and of code: what tells whether something made before is still what would be made now."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any


def hash_json(value: Any, length: int = 8) -> str:
    """A short hexadecimal hash of a JSON value; equal values give equal hashes, whatever the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def hash_code(modules: Sequence[str]) -> str:
    """Hash the code of `modules` and of everything in `star_ctr` that they import, directly or indirectly.

    Comments, formatting, docstrings and the texts of `help=` and `description=` do not count, so that rewording them
    neither makes a night stale nor changes a run. All other literals count.

    Args:
        modules: Full names, for example `star_ctr.model.train`.

    Returns:
        16 hexadecimal digits.
    """
    code: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in code:
            continue
        file = _find_source(name)
        if file is None:
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        code[name] = ast.dump(_WithoutProse().visit(tree))
        waiting += _list_imports(tree)
    return hash_json(code, 16)


class _WithoutProse(ast.NodeTransformer):
    """Removes docstrings, other strings that are statements of their own, and texts of `help=` and `description=`."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if _is_text(node.value) else self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> ast.AST | None:
        is_prose = node.arg in ("help", "description") and _is_text(node.value)
        return None if is_prose else self.generic_visit(node)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _list_imports(tree: ast.AST) -> list[str]:
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in found if name.startswith("star_ctr.") and _find_source(name)]


def _find_source(name: str) -> Traversable | None:
    """The source of a module of star_ctr, by its name alone: to import it, and Spark and torch with it, is slow.

    Also out of an archive, as which the code may have come to a cluster.
    """
    *rooms, last = name.split(".")[1:]
    room = files("star_ctr").joinpath(*rooms)
    return next((f for f in (room / f"{last}.py", room / last / "__init__.py") if f.is_file()), None)
