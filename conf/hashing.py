"""Hashes of values and of code: what tells whether something made before is still what would be made now."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
from collections.abc import Sequence
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
        spec = importlib.util.find_spec(name)
        # Asked of the loader and not read from a file: on a cluster the code may have come as one archive.
        get_source = getattr(spec.loader, "get_source", None) if spec else None
        source = get_source(name) if get_source else None
        if source is None:
            continue
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
    return [name for name in found if name.startswith("star_ctr.") and _is_module(name)]


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
