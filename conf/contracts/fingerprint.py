"""Hashes of JSON values and of code, which show whether an existing output is still up to date."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any


def hash_json(value: Any, length: int = 8) -> str:
    """Hash a JSON value. Equal values have equal hashes, regardless of the order of keys.

    Args:
        value: The value. Objects that JSON does not support are hashed as text.
        length: The number of hexadecimal digits, at most 64.

    Returns:
        The first `length` hexadecimal digits of the SHA-256.
    """
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
        code[name] = ast.dump(_ProseRemover().visit(tree))
        waiting += _list_imports(tree)
    return hash_json(code, 16)


class _ProseRemover(ast.NodeTransformer):
    """Removes docstrings, other statements that are only a string, and the texts of `help=` and `description=`."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if _is_text(node.value) else self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> ast.AST | None:
        is_prose = node.arg in ("help", "description") and _is_text(node.value)
        return None if is_prose else self.generic_visit(node)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _list_imports(tree: ast.AST) -> list[str]:
    """Return the names of the `star_ctr` modules that a syntax tree imports."""
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in found if name.startswith("star_ctr.") and _find_source(name)]


def _find_source(name: str) -> Traversable | None:
    """Return the source file of a `star_ctr` module; None if there is no such module.

    The module is located by its name, because importing it would also import Spark and torch, which is slow. This also
    works if the code was shipped to a cluster as an archive.
    """
    *packages, last = name.split(".")[1:]
    folder = files("star_ctr").joinpath(*packages)
    return next((f for f in (folder / f"{last}.py", folder / last / "__init__.py") if f.is_file()), None)
