"""The YAML file with proposed settings: changes to the file of the data set, with their gain as comments."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from star_ctr.conf.errors import UserError
from star_ctr.conf.files import write_text
from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings
from star_ctr.conf.settings.trainer import NOT_AFFECTING_WEIGHTS
from star_ctr.conf.yaml_files import EXTENDS
from star_ctr.workflows.tune.space import change_settings, dump_training

_SECTIONS = ("model", "trainer", "preset")


def write_overlay(
    file: Path, conf: str, overrides: Sequence[str], settings: Settings, values: Mapping[str, Any], notes: Sequence[str]
) -> None:
    """Write a YAML file that extends the file of the data set and contains the proposed settings.

    Args:
        file: The file to write.
        conf: The file of the data set, or the name of a configuration of this package.
        overrides: The overrides of the search; those of `model` and `trainer` become part of the file.
        settings: The current settings, with these overrides and the recipe.
        values: The proposed values, by dotted key.
        notes: Lines to write as comments at the top.

    Raises:
        UserError: A proposed mapping lacks keys of the current one.
    """
    kept = [o for o in overrides if o.partition("=")[0].split(".")[0] not in _SECTIONS]
    proposed = _list_affecting(change_settings(settings, values))
    current = _list_affecting(settings)
    found = dict(values)
    while True:
        # A value may change what the recipe sets: if one learning rate is given, the recipe sets none of the others.
        result = _list_affecting(load(conf, [*kept, *(f"{key}={json.dumps(v)}" for key, v in found.items())]))
        missing = {key: value for key, value in proposed.items() if result[key] != value}
        if not missing:
            break
        assert not missing.keys() & found.keys(), f"{missing} has no effect"
        found |= missing
    extended = _list_affecting(load(conf, kept))
    for key, value in found.items():
        # A mapping in the extended file keeps its other keys.
        if isinstance(value, dict) and isinstance(extended[key], dict) and extended[key].keys() - value.keys():
            dropped = ", ".join(sorted(extended[key].keys() - value.keys()))
            raise UserError(
                f"tune.space: the proposed value of `{key}`, {json.dumps(value)}, lacks {dropped}, which a file that "
                "extends another one cannot remove; give all values in tune.space the same keys"
            )
    base = os.path.relpath(conf, file.parent) if Path(conf).suffix in (".yaml", ".yml") else conf
    if kept:
        notes = [*notes, f"Measured with {' '.join(f'--set {o}' for o in kept)}, which this file does not contain."]
    lines = [*(f"# {note}" for note in notes), f"{EXTENDS}: {json.dumps(base, ensure_ascii=False)}"]
    comments = {
        key: f"was {json.dumps(current[key])}" if current[key] != value else "unchanged; the recipe would not set it"
        for key, value in found.items()
    }
    write_text(file, "\n".join([*lines, *_format(_nest(found), comments)]) + "\n")
    assert _list_affecting(load(file, kept)) == proposed


def _list_affecting(settings: Settings) -> dict[str, Any]:
    """Return the settings of model and trainer that affect the model, except the seed."""
    names = {"trainer.seed", *(f"trainer.{name}" for name in NOT_AFFECTING_WEIGHTS)}
    return {
        key: value
        for key, value in dump_training(settings).items()
        if key not in names and ".".join(key.split(".")[:2]) not in names
    }


def _nest(values: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in sorted(values.items()):
        section = nested
        *parents, last = key.split(".")
        for part in parents:
            section = section.setdefault(part, {})
        section[last] = value
    return nested


def _format(nested: Mapping[str, Any], comments: Mapping[str, str], prefix: str = "") -> list[str]:
    """Return nested settings as lines of YAML with a comment per value."""
    lines = []
    indent = "  " * prefix.count(".")
    for name, value in nested.items():
        key = f"{prefix}{name}"
        if key in comments:
            lines.append(f"{indent}{name}: {json.dumps(value)}  # {comments[key]}")
        else:
            lines += [f"{indent}{name}:", *_format(value, comments, f"{key}.")]
    return lines
