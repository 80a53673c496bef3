"""Merge groups of files that are one log, and keep the patterns of different logs apart."""

from __future__ import annotations

import re
from collections.abc import Sequence

from star_ctr.conf.settings.sources import PLACEHOLDERS
from star_ctr.jobs.new_data_set.log_groups import LogGroup


def merge_groups(groups: Sequence[LogGroup], columns: Sequence[Sequence[str]]) -> list[tuple[LogGroup, list[int]]]:
    """Merge groups with the same format and columns, whose patterns differ in one part of the path.

    For example, `server1/{ds}.csv` and `server2/{ds}.csv` become `*/{ds}.csv`.

    Args:
        groups: The groups.
        columns: The columns of each group.

    Returns:
        The groups, and the positions of those that each consists of.
    """
    merged: list[tuple[LogGroup, list[int]]] = []
    for number, group in enumerate(groups):
        for k, (other, members) in enumerate(merged):
            pattern = _merge_patterns(other.pattern, group.pattern)
            same = group.format == other.format and list(columns[number]) == list(columns[members[0]])
            if pattern is not None and same and group.format != "delta":
                files = sorted([*other.files, *group.files], key=lambda file: (file.day or "", file.path))
                merged[k] = (other._replace(pattern=pattern, files=files), [*members, number])
                break
        else:
            merged.append((group, [number]))
    return merged


def _merge_patterns(one: str, other: str) -> str | None:
    """Return a pattern for both patterns; None if they differ in more than one part of the path."""
    parts, others = one.split("/"), other.split("/")
    if len(parts) != len(others):
        return None
    different = [k for k, (a, b) in enumerate(zip(parts, others, strict=True)) if a != b and a != "*"]
    if not different:
        return one
    if len(different) > 1 or any(
        "{ds}" in part or "{yyyy" in part for k in different for part in (parts[k], others[k])
    ):
        return None
    ending = re.search(r"(\.\w+)+$", parts[different[0]])
    parts[different[0]] = "*" + (ending[0] if ending and others[different[0]].endswith(ending[0]) else "")
    return "/".join(parts)


def tell_apart(groups: Sequence[LogGroup]) -> list[LogGroup]:
    """Return groups whose patterns do not match files of other groups.

    A wildcard that matches too much becomes a number, `[0-9]*`, or the name of the only file.

    Args:
        groups: The groups.
    """
    apart = []
    for group in groups:
        roots = _find_root(group)
        others = [file.path[len(roots) :] for other in groups if other is not group for file in other.files]
        chosen = group
        for pattern in (group.pattern, group.pattern.replace("*", "[0-9]*"), group.files[-1].path[len(roots) :]):
            if not any(_matches(pattern, name) for name in others):
                chosen = group._replace(pattern=pattern)
                break
        apart.append(chosen)
    return apart


def _find_root(group: LogGroup) -> str:
    """Return the folder of the logs, with a slash: the part of a path that the pattern does not have."""
    path = group.files[0].path
    return "/".join(path.split("/")[: -(group.pattern.count("/") + 1)]) + "/"


def _matches(pattern: str, name: str) -> bool:
    """Return whether a pattern matches a path below the folder of the logs."""
    parts = re.split(r"(\{\w+\}|\[0-9\]|\*)", pattern)
    wildcards = {**PLACEHOLDERS, "*": "[^/]*", "[0-9]": "[0-9]"}
    return re.fullmatch("".join(wildcards.get(part, re.escape(part)) for part in parts), name) is not None
