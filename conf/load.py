"""Load the YAML file of a data set into `Settings`.

Loading works in these steps:

1. Read the file: a path, or the name of a file that ships with the package. Merge it with the files that it extends.
2. Apply the overrides (`--set key=value`).
3. Replace `${VARIABLE}` by the value of the environment variable.
4. Validate the result. Errors name the file, the line and the key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from star_ctr.conf.errors import ConfigError, suggest_nearest
from star_ctr.conf.recipe import apply_recipe
from star_ctr.conf.settings.root import Settings
from star_ctr.conf.validation_messages import explain_problems
from star_ctr.conf.yaml_files import EXTENDS, YamlFile, merge, read_yaml_files

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
DATA_VARIABLE = "STAR_CTR_DATA"
"""Environment variable with the folder that holds the data. See `find_data_folder` for its default."""


def load(conf: str | Path, overrides: Sequence[str] = (), *, with_recipe: bool = True) -> Settings:
    """Load and validate settings.

    Args:
        conf: A YAML file, or the name without suffix of one that ships with the package, such as `kuairand`.
        overrides: Texts of the form `key=value`, where the value is YAML. Keys are dotted paths. Items of a list are
            addressed by their `name`, as in `features.user_ctr.prior=10`.
        with_recipe: Whether to apply the warehouse's recipe (see `star_ctr.conf.recipe`).

    Returns:
        The validated settings.

    Raises:
        ConfigError: The file or one that it extends does not exist, an override cannot be applied, or the settings are
            invalid. The message has one line per problem.
        DataError: The stored recipe is damaged.
    """
    files = read_yaml_files(str(conf))
    data = merge(files)
    given = {_apply(data, override): override for override in overrides}
    if EXTENDS in data:
        override = next(o for location, o in given.items() if location[0] == EXTENDS)
        raise ConfigError(f"--set {override}: `{EXTENDS}` is only valid in a YAML file")
    data = _substitute_variables(data, files)
    try:
        settings = Settings.model_validate(data)
    except ValidationError as error:
        nodes = [(file.path, file.node) for file in files]
        raise ConfigError("\n".join(explain_problems(error, nodes, data, given))) from None
    return apply_recipe(settings) if with_recipe else settings


def _apply(data: dict[str, Any], override: str) -> tuple[str | int, ...]:
    """Apply an override of the form `key=value` to `data` in place; return the location of the key."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: write key=value, as in --set trainer.seed=1")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override}: `{text}` is not a YAML value; quote it") from None
    if isinstance(value, str):
        value = _parse_number(value)
    section: Any = data
    location: list[str | int] = []
    *parents, last = key.split(".")
    for part in parents:
        if isinstance(section, list):
            found = _find_by_name(section, part, override)
            location.append(section.index(found))
            section = found
            continue
        location.append(part)
        if isinstance(section, dict):
            if section.get(part) is None:
                section[part] = {}
            section = section[part]
        else:
            raise ConfigError(f"--set {override}: cannot set `{part}`, because the key before it is not a section")
    if not isinstance(section, dict):
        raise ConfigError(f"--set {override}: cannot set `{last}`, because the key before it is not a section")
    section[last] = value
    return (*location, last)


def _find_by_name(items: list[Any], name: str, override: str) -> Any:
    """Return the item of a list that has the given `name`."""
    names = [item.get("name") for item in items if isinstance(item, dict)]
    if name not in names:
        raise ConfigError(
            f"--set {override}: no item has the name `{name}`{suggest_nearest(name, [str(n) for n in names])}"
        )
    return next(item for item in items if isinstance(item, dict) and item.get("name") == name)


def _parse_number(text: str) -> Any:
    """Convert text such as `1e-3` to a number, because YAML 1.1 reads it as text."""
    try:
        return float(text) if re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", text) else text
    except ValueError:
        return text


def find_data_folder() -> str | None:
    """Return the folder that holds the data.

    Returns:
        The value of `STAR_CTR_DATA` if it is set; otherwise the first of `data` and `../shared/data` that exists,
        relative to the working directory; None if neither exists.
    """
    given = os.environ.get(DATA_VARIABLE)
    if given:
        return given
    return next((str(p) for p in (Path("data"), Path("../shared/data")) if p.is_dir()), None)


def _substitute_variables(value: Any, files: Sequence[YamlFile]) -> Any:
    """Replace `${NAME}` in all texts of `value` by environment variables; errors name the file with the text."""
    if isinstance(value, Mapping):
        return {key: _substitute_variables(inner, files) for key, inner in value.items()}
    if isinstance(value, list):
        return [_substitute_variables(inner, files) for inner in value]
    if not isinstance(value, str):
        return value

    def look_up(match: re.Match[str]) -> str:
        name = match.group(1)
        found = find_data_folder() if name == DATA_VARIABLE else os.environ.get(name)
        if found is None:
            path = next((file.path for file in files if match[0] in file.text), files[0].path)
            raise ConfigError(
                f"{path}: `{value}` uses ${{{name}}}, which is not set; export {name}, the folder that holds the data"
            )
        return found

    return _VARIABLE.sub(look_up, value)
