"""What makes a run the run that it is: hashes of settings and code, and the `run_id`."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from star_ctr.conf.settings import Settings

_NOT_OF_THE_MODEL: Any = {
    "paths": True,
    "spark": True,
    "about": True,
    "simulate": True,
    "compare": True,
    "trainer": {"checkpoint_minutes", "processes", "threads", "device", "seed"},
}


def digest(value: Any, length: int = 8) -> str:
    """A short hexadecimal hash of a JSON value; equal values give equal hashes, whatever the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def config_hash(settings: Settings) -> str:
    """Hash of the settings that decide what the model is: not of places, machines or the seed."""
    return digest(settings.model_dump(mode="json", exclude=_NOT_OF_THE_MODEL))


def features_hash(settings: Settings) -> str:
    """Hash of the settings that decide what the `features` table holds."""
    parts = settings.model_dump(mode="json", include={"zone", "logs", "label", "domains", "history", "features"})
    return digest(parts)


def split_hash(settings: Settings) -> str:
    """Hash of the settings that decide what a night's `split` holds; which model reads it plays no part."""
    parts = settings.model_dump(
        mode="json",
        include={
            "zone": True, "logs": True, "label": True, "domains": True, "history": True, "features": True,
            "window": True, "split": True, "model": {"embeddings"},
        },
    )  # fmt: skip
    return digest(parts)


def variant(settings: Settings) -> str:
    """The model's name with its variant, as tables and metrics show it: `star-pn-aux`.

    What departs from the usual form is added: pooling by attention, summed weights, mixed batches.
    """
    model = settings.model
    parts = [model.name, model.norm, "aux" if model.aux else "noaux"]
    parts += [model.pooling] if model.pooling != "mean" else []
    parts += ["sum"] if model.combine == "sum" else []
    parts += ["mixed"] if settings.trainer.batches == "mixed" else []
    return "-".join(parts)


def run_id(settings: Settings, ds: str) -> str:
    """The name of a run: the night, the model with its variant, the seed and the hash of the settings."""
    return f"{ds}-{variant(settings)}-s{settings.trainer.seed}-{config_hash(settings)}"


def code_hash(modules: Sequence[str]) -> str:
    """Hash of the source of `modules` and of all of `star_ctr` that they import, however far down."""
    sources: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in sources:
            continue
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            continue
        source = Path(spec.origin).read_text(encoding="utf-8")
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
