"""Read the YAML file of a data set, with the files that it extends.

A file with the key `extends` contains changes to another file: mappings are merged key by key; all other values,
including lists, replace those of the other file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from star_ctr.conf.errors import ConfigError, suggest_nearest
from star_ctr.conf.validation_messages import describe_yaml_error

EXTENDS = "extends"
"""The key with the file to extend."""


class YamlFile(NamedTuple):
    """A YAML file.

    Attributes:
        path: Its path.
        text: Its text.
        node: Its YAML nodes, for line numbers.
        data: Its content.
    """

    path: Path
    text: str
    node: yaml.Node
    data: dict[str, Any]


def read_yaml_files(conf: str) -> list[YamlFile]:
    """Read a configuration and the files that it extends.

    Args:
        conf: A YAML file, or the name without suffix of one that ships with the package.

    Returns:
        The file, followed by the file that it extends, and so on.

    Raises:
        ConfigError: A file does not exist or is not a mapping in valid YAML, or a file extends itself.
    """
    found = [_read(_find(conf))]
    while (base := found[-1].data.get(EXTENDS)) is not None:
        file = found[-1]
        where = f"{file.path}:{_find_line(file)}"
        if not isinstance(base, str):
            raise ConfigError(f"{where}: {EXTENDS}: this must be the path of a YAML file (got `{base}`)")
        path = _find(base, file.path.parent, where)
        paths = [other.path for other in found]
        if path.resolve() in [other.resolve() for other in paths]:
            chain = " -> ".join(map(str, [*paths, path]))
            raise ConfigError(f"{where}: {EXTENDS}: a file cannot extend itself ({chain}); remove one of these keys")
        found.append(_read(path))
    return found


def merge(files: list[YamlFile]) -> dict[str, Any]:
    """Merge the content of files; earlier files take precedence. The result has no key `extends`."""
    data: dict[str, Any] = {}
    for file in reversed(files):
        data = _merge(data, file.data)
    return {key: value for key, value in data.items() if key != EXTENDS}


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _find(conf: str, folder: Path | None = None, where: str = "") -> Path:
    """Return the path of a configuration, given as a file or by name.

    Args:
        conf: The file or the name.
        folder: The folder that the path of a file is relative to; by default, the working directory.
        where: The position of the key `extends`; empty for the configuration of a command.

    Raises:
        ConfigError: There is no such file.
    """
    path = Path(conf) if folder is None else folder / conf
    shipped = Path(__file__).parent
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
    elif (shipped / f"{conf}.yaml").is_file():
        return shipped / f"{conf}.yaml"
    names = sorted(p.stem for p in shipped.glob("*.yaml"))
    if where:
        raise ConfigError(
            f"{where}: {EXTENDS}: no such file: {path}; give the path of a YAML file, relative to this one, or the "
            f"name of one that ships with star-ctr: {', '.join(names)}"
        )
    raise ConfigError(
        f"{conf}: no such configuration file{suggest_nearest(path.stem, names)}; "
        f"give a YAML file, or the name of one that ships with star-ctr: {', '.join(names)}"
    )


def _read(path: Path) -> YamlFile:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: the file is not UTF-8 text; save it as UTF-8") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(describe_yaml_error(path, error)) from None
    if repeated := _list_repeated_keys(node):
        raise ConfigError(
            "\n".join(f"{path}:{line}: `{key}` is given twice; merge or delete one" for key, line in repeated)
        )
    if not isinstance(data, dict) or node is None:
        raise ConfigError(f"{path}: the top level must be a mapping of settings; see conf/kuairand.yaml for an example")
    return YamlFile(path, text, node, data)


def _list_repeated_keys(node: yaml.Node | None) -> list[tuple[str, int]]:
    """Return each key that a mapping contains again, and its line (from 1). YAML would silently use the last one."""
    if isinstance(node, yaml.SequenceNode):
        return [found for item in node.value for found in _list_repeated_keys(item)]
    if not isinstance(node, yaml.MappingNode):
        return []
    found, seen = [], set()
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            found += [(key.value, key.start_mark.line + 1)] if key.value in seen else []
            seen.add(key.value)
        found += _list_repeated_keys(value)
    return found


def _find_line(file: YamlFile) -> int:
    """Return the line (from 1) of the key `extends`."""
    return next((key.start_mark.line + 1 for key, _ in file.node.value if key.value == EXTENDS), 1)
