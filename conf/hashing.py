"""Hashes of values and of code: what tells whether something made before is still what would be made now."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any


def digest(value: Any, length: int = 8) -> str:
    """A short hexadecimal hash of a JSON value; equal values give equal hashes, whatever the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def code_hash(modules: Sequence[str]) -> str:
    """Hash of the source of `modules` and of all of `star_ctr` that they import, however far down."""
    sources: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in sources:
            continue
        file = _file(name)
        if file is None:
            continue
        source = file.read_text(encoding="utf-8")
        sources[name] = source
        waiting += _imports(source)
    return digest(sources, 16)


def _imports(source: str) -> list[str]:
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in found if name.startswith("star_ctr.") and _file(name)]


def _file(name: str) -> Traversable | None:
    """The source of a module of star_ctr, by its name alone: to import it, and Spark and torch with it, is slow.

    Also out of an archive, as which the code may have come to a cluster.
    """
    *rooms, last = name.split(".")[1:]
    room = files("star_ctr").joinpath(*rooms)
    return next((f for f in (room / f"{last}.py", room / last / "__init__.py") if f.is_file()), None)
