"""Messages for settings that are not valid: file and line, key, problem and remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from star_ctr.conf.errors import suggest_nearest
from star_ctr.conf.settings.root import Settings

Location = Sequence[int | str]
"""The path of a value in the settings: keys of mappings, and indexes of lists."""

_MESSAGES = {
    "string_type": "this must be text; quote the value",
    "int_type": "this must be a whole number",
    "int_parsing": "this must be a whole number",
    "int_from_float": "this must be a whole number",
    "float_type": "this must be a number",
    "float_parsing": "this must be a number",
    "finite_number": "this must be a finite number",
    "bool_type": "this must be true or false",
    "bool_parsing": "this must be true or false",
    "list_type": "this must be a list, such as [a, b]",
    "dict_type": "this must be a mapping, such as {key: value}",
    "model_type": "this must be a mapping of settings, such as {key: value}",
    "model_attributes_type": "this must be a mapping of settings, such as {key: value}",
    "missing": "this key is required",
    "string_too_short": "this must not be empty",
    "union_tag_not_found": "`kind` is required",
    "date_type": "this must be a date, such as 2022-05-05",
    "date_parsing": "this must be a date, such as 2022-05-05",
    "date_from_datetime_parsing": "this must be a date, such as 2022-05-05",
    "date_from_datetime_inexact": "this must be a date, such as 2022-05-05",
}
"""Messages by the type of pydantic's error."""
_LIMITS = {
    "greater_than": ("gt", "this must be greater than"),
    "greater_than_equal": ("ge", "this must be at least"),
    "less_than": ("lt", "this must be less than"),
    "less_than_equal": ("le", "this must be at most"),
    "multiple_of": ("multiple_of", "this must be a multiple of"),
}
"""For errors of limits: the key of the limit in pydantic's context, and the message before it."""
_SHOWN = 60
"""Maximum number of characters of a value in a message."""


def describe_yaml_error(path: Path, error: Exception) -> str:
    """Return the message for a file that is not valid YAML."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    remedy = "; indent with spaces, not tabs" if "'\\t'" in problem else ""
    return f"{path}{f':{mark.line + 1}' if mark else ''}: not valid YAML: {problem}{remedy}"


def explain_problems(
    error: ValidationError,
    files: Sequence[tuple[Path, yaml.Node]],
    data: Any,
    overrides: Mapping[tuple[str | int, ...], str],
) -> list[str]:
    """Return one line for each distinct problem, with file, line, key and message.

    Args:
        error: The result of the validation.
        files: The file, followed by the files that it extends, each with its YAML nodes for line numbers.
        data: The settings with overrides and variables applied.
        overrides: The overrides by the location of the key that they set.
    """
    lines = []
    problems = error.errors()
    # If a key of one branch of a union is misspelled, do not also report the required keys of the other branches.
    misspelled = {_strip_last(p["loc"]) for p in problems if p["type"] == "extra_forbidden"}
    for problem in problems:
        location = [part for part in problem["loc"] if not _is_tag(part)]
        if (
            problem["type"] == "missing"
            and len(location) < len(problem["loc"])
            and _strip_last(problem["loc"]) in misspelled
        ):
            continue
        if location[-1:] == ["zone"] and len(location) > 1 and any(p["loc"] == ("zone",) for p in problems):
            continue  # the zone of a log's times, which is that of the data set
        for text in _make_message(problem, location).split("\n"):
            key = ".".join(_label_parts(data, location))
            where = location
            # Checks across sections begin with their key.
            if not location and (found := _parse_key(data, text.partition(":")[0])):
                where = found
            lines.append(f"{_find_position(files, where, overrides)}: {key + ': ' if key else ''}{text}")
    return list(dict.fromkeys(lines))


def _make_message(problem: Any, location: Location) -> str:
    """Return the message of a problem, without its position and key."""
    kind, value, context = problem["type"], problem.get("input"), problem.get("ctx", {})
    if kind == "value_error":
        return str(problem["msg"]).removeprefix("Value error, ")
    if kind == "extra_forbidden":
        known = sorted(set(_list_known_keys(problem["loc"][:-1])))
        hint = suggest_nearest(str(location[-1]), known)
        return f"unknown key{hint}" + (f" (known keys: {', '.join(known)})" if known else "")
    if kind == "union_tag_invalid":
        tag = str(context["tag"])
        return f"unknown kind `{tag}`{suggest_nearest(tag, _KINDS)} (known kinds: {', '.join(_KINDS)})"
    if kind == "union_tag_not_found":
        return f"{_MESSAGES[kind]} (known kinds: {', '.join(_KINDS)})"
    if kind == "missing":
        return _MESSAGES[kind]
    if kind in _LIMITS:
        key, text = _LIMITS[kind]
        message = f"{text} {context[key]:g}"
    elif kind == "literal_error":
        expected = str(context["expected"]).replace("'", "`")
        known = [part.strip("`") for part in expected.replace(" or ", ", ").split(", ")]
        message = f"this must be one of {expected}{suggest_nearest(str(value), known)}"
    elif kind == "too_short":
        message = f"this list needs at least {context['min_length']} item(s)"
    elif kind == "too_long":
        message = f"this list may have at most {context['max_length']} item(s)"
    else:
        message = _MESSAGES.get(kind, str(problem["msg"]))
    return message if isinstance(value, dict | list) else f"{message} (got `{str(value)[:_SHOWN]}`)"


def _find_position(
    files: Sequence[tuple[Path, yaml.Node]], location: Location, overrides: Mapping[tuple[str | int, ...], str]
) -> str:
    """Return where a value was set: an override, or a line of the file with the longest part of its location."""
    for place, override in overrides.items():
        shared = min(len(place), len(location))
        if shared and tuple(location[:shared]) == place[:shared]:
            return f"--set {override}"
    found = [(path, *_find_line(node, location)) for path, node in files]
    path, line, _ = max(found, key=lambda place: place[2])
    return f"{path}:{line}" if line else str(path)


def _parse_key(data: Any, text: str) -> list[int | str]:
    """Return the location of a dotted key, in which items of lists have their `name`; empty if it is not a key."""
    location: list[int | str] = []
    for part in text.split("."):
        if isinstance(data, list):
            names = [item.get("name") if isinstance(item, dict) else None for item in data]
            if part not in names:
                return location
            location.append(names.index(part))
        elif isinstance(data, dict) and part in data:
            location.append(part)
        else:
            return location
        data = data[location[-1]]
    return location


def _strip_last(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Return the location of the parent, without union tags."""
    return tuple(part for part in location[:-1] if not _is_tag(part))


def _is_tag(part: int | str) -> bool:
    """Return whether a part of a pydantic location is the tag of a union branch and not a key."""
    return isinstance(part, str) and (part in ("LabelColumn", "LabelFromClicks") or part in _KINDS or "[" in part)


_KINDS = ("categorical", "numeric", "vector", "sequence", "statistic")


def _label_parts(data: Any, location: Sequence[int | str]) -> list[str]:
    """Return the parts of a location, with each list index replaced by the `name` of the item if it has one."""
    parts = []
    for part in location:
        data = data[part] if _has_part(data, part) else None
        has_name = isinstance(part, int) and isinstance(data, dict) and "name" in data
        parts.append(str(data["name"]) if has_name else str(part))
    return parts


def _has_part(data: Any, part: int | str) -> bool:
    """Return whether a mapping has a key, or a list an index."""
    if isinstance(data, dict):
        return part in data
    return isinstance(data, list) and isinstance(part, int) and part < len(data)


def _find_line(node: yaml.Node, location: Sequence[int | str]) -> tuple[int | None, int]:
    """Return the line (from 1) of the deepest key of `location` in a file, or None, and the depth of this key."""
    line = None
    for depth, part in enumerate(location):
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if found is None:
                return line, depth
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            return line, depth
    return line, len(location)


def _list_known_keys(location: Sequence[int | str]) -> list[str]:
    """Return the keys that the settings accept at `location`, which may have the tags of union branches."""
    models: list[type[BaseModel]] = [Settings]
    for part in location:
        if part in _KINDS and len(models) > 1:
            models = [
                m for m in models if "kind" in m.model_fields and part in get_args(m.model_fields["kind"].annotation)
            ]
            continue
        if _is_tag(part):
            continue
        found: list[type[BaseModel]] = []
        for model in models:
            field = model.model_fields.get(str(part))
            found += _list_models(field.annotation) if field else ([model] if isinstance(part, int) else [])
        models = found or models
    return [name for model in models for name in model.model_fields]


def _list_models(annotation: Any) -> list[type[BaseModel]]:
    """Return the settings models that occur in a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in getattr(annotation, "__args__", ()) for model in _list_models(inner)]
