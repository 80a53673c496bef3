"""Globs of log files with placeholders of the day and hour, such as `{ds}/{hh}/*.csv`."""

from __future__ import annotations

import datetime as dt
import re

from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.sources import PLACEHOLDERS

_TOKEN = re.compile(r"\{\w+\}|\*\*/?|\*|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)
"""A part of a glob: a placeholder, a wildcard or a single character."""


def format_glob(glob: str, ds: str) -> str:
    """Return the glob of the files of one day."""
    year, month, day = ds.split("-")
    values = {"{ds}": ds, "{yyyymmdd}": ds.replace("-", ""), "{yyyy}": year, "{mm}": month, "{dd}": day}
    for mark, value in values.items():
        glob = glob.replace(mark, value)
    return widen_glob(glob)


def widen_glob(glob: str) -> str:
    """Return the glob of the files of all days."""
    parts = []
    for part in glob.split("/"):
        widened = part
        for mark in PLACEHOLDERS:
            widened = widened.replace(mark, "*")
        # Two placeholders side by side must not become `**`, which matches folders.
        parts.append(part if part == "**" else re.sub(r"\*{2,}", "*", widened))
    return "/".join(parts)


def parse_path(pattern: str, file: str) -> tuple[str, str | None] | None:
    """Parse the day and hour in the path of a file.

    Args:
        pattern: The log's glob, from `list_patterns`.
        file: The path of the file.

    Returns:
        The day, for example 2022-05-05, and the hour (None if the glob contains none); None if the path does not match
        the glob.

    Raises:
        DataError: The path has digits at the position of the day, but they are not a date.
    """
    match = re.search(translate_glob(pattern) + "$", file)
    if match is None:
        return None
    found = match.groupdict()
    texts = [found[name] for name in ("ds", "yyyymmdd") if name in found]
    if "yyyy" in found:
        texts.append(f"{found['yyyy']}-{found['mm']}-{found['dd']}")
    try:
        days = {dt.date.fromisoformat(text).isoformat() for text in texts}
    except ValueError:
        raise DataError(
            f"{file}: `{texts[0]}` is not a date; rename the file, or move it out of {widen_glob(pattern)}"
        ) from None
    return (days.pop(), found.get("hh")) if len(days) == 1 else None


def translate_glob(pattern: str) -> str:
    """Translate a glob with placeholders to a regular expression with a group per placeholder."""
    parts, seen = [], set[str]()
    for token in _TOKEN.findall(pattern):
        if token in PLACEHOLDERS:
            name = token[1:-1]
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{PLACEHOLDERS[token]})")
            seen.add(name)
        elif token.startswith("**"):
            parts.append(".*")
        elif token == "*":
            parts.append("[^/]*")
        elif token == "?":
            parts.append("[^/]")
        elif len(token) > 2 and token.startswith("["):
            negated = token[1] == "!"
            inner = re.sub(r"([\\\[\]^&~|])", r"\\\1", token[2 if negated else 1 : -1])
            parts.append(f"[{'^' if negated else ''}{inner}]")
        else:
            parts.append(re.escape(token))
    return "".join(parts)


def expand_braces(glob: str) -> list[str]:
    """Expand `{a,b}` in a glob into one glob per alternative, as Spark does."""
    match = re.search(r"\{([^{}]*,[^{}]*)\}", glob)
    if match is None:
        return [glob]
    ends = (glob[: match.start()], glob[match.end() :])
    return [g for part in match[1].split(",") for g in expand_braces(ends[0] + part + ends[1])]


def is_in_hidden_folder(pattern: str, path: str) -> bool:
    """Return whether a wildcard of a glob has matched a hidden folder of a path, such as `_temporary`."""
    named = {re.sub(r"\[([*?\[{])\]", r"\1", name) for name in pattern.split("/")}
    return any(is_hidden(name) for name in path.split("/")[:-1] if name not in named)


def is_hidden(name: str) -> bool:
    """Return whether Spark skips files and folders of this name, which are not partition folders such as `_hour=13`."""
    return name.startswith(".") or (name.startswith("_") and "=" not in name)
