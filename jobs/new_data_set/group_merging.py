"""Merge groups of files that are one log, and keep the patterns of different logs apart."""

from __future__ import annotations

import re
from collections.abc import Sequence

from star_ctr.jobs.io.path_patterns import translate_glob
from star_ctr.jobs.new_data_set.columns import names_clicks
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
    # Clicks may have the same columns as other events, such as purchases.
    if names_clicks(one) != names_clicks(other):
        return None
    if len(different) > 1 or any(
        "{ds}" in part or "{yyyy" in part for k in different for part in (parts[k], others[k])
    ):
        return None
    ending = re.search(r"(\.\w+)+$", parts[different[0]])
    parts[different[0]] = "*" + (ending[0] if ending and others[different[0]].endswith(ending[0]) else "")
    return "/".join(parts)


def tell_apart(groups: Sequence[LogGroup]) -> list[LogGroup]:
    """Return groups whose patterns do not match files of other groups, as far as possible.

    A wildcard that matches too much becomes a number, `[0-9]*`, or the name of the only file.

    Args:
        groups: The groups.

    Returns:
        The groups. A pattern always matches all files of its group.
    """
    apart = []
    for group in groups:
        root = len(_find_root(group))
        own = [file.path[root:] for file in group.files]
        others = [file.path[root:] for other in groups if other is not group for file in other.files]
        candidates = (group.pattern, group.pattern.replace("*", "[0-9]*"), own[0])
        fitting = (p for p in candidates if _match_all(p, own) and not any(_match_all(p, [name]) for name in others))
        apart.append(group._replace(pattern=next(fitting, group.pattern)))
    return apart


def _find_root(group: LogGroup) -> str:
    """Return the folder of the logs, with a slash: the part of a path that the pattern does not have."""
    path = group.files[0].path
    return "/".join(path.split("/")[: -(group.pattern.count("/") + 1)]) + "/"


def _match_all(pattern: str, names: Sequence[str]) -> bool:
    """Return whether a pattern matches all of some paths below the folder of the logs."""
    expression = re.compile(translate_glob(pattern))
    return all(expression.fullmatch(name) for name in names)
