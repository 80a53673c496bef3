"""The positions of each feature in encoded rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from star_ctr.conf.contracts.encoded_row import Layout

FEATURE, GROUP = "feature", "group"
"""Kinds of parts."""
_KINDS = {"statistic": "statistics", "sequence": "sequences"}


class RowPart(NamedTuple):
    """A part of an encoded row: a feature, or a group of features.

    Attributes:
        kind: `feature` or `group`.
        name: The name of the feature or group.
        ints: The positions among the integers of the row.
        floats: The positions among the floats of the row.
    """

    kind: str
    name: str
    ints: tuple[int, ...]
    floats: tuple[int, ...]


def list_parts(features: Iterable[Mapping[str, Any]], layout: Layout) -> list[RowPart]:
    """List the features of a layout, and groups of them.

    The groups are statistics, sequences, and the other features by the log of their column. A cross belongs to the
    group of its first column.

    Args:
        features: The declared features, as in the settings of a run.
        layout: The layout of the rows.

    Returns:
        The features in the order of their declaration, then the groups that have several features.
    """
    groups = {str(feature["name"]): _get_group(feature) for feature in features}
    ints: dict[str, list[int]] = {name: [] for name in groups}
    floats: dict[str, list[int]] = {name: [] for name in groups}
    for position, field in enumerate(layout.fields):
        ints[_find_feature(field.name, groups)].append(position)
    for sequence, offset in layout.iter_sequence_offsets():
        ints[_find_feature(sequence.name, groups)] += range(offset, offset + sequence.width)
    for position, number in enumerate(layout.numeric):
        floats[_find_feature(number.name, groups)].append(position)
    for vector, offset in layout.iter_vector_offsets():
        floats[vector.name] += range(offset, offset + vector.length)
    parts = [RowPart(FEATURE, name, tuple(ints[name]), tuple(floats[name])) for name in groups]
    parts = [part for part in parts if part.ints or part.floats]
    for group in dict.fromkeys(groups.values()):
        own = [part for part in parts if part.kind == FEATURE and groups[part.name] == group]
        if len(own) > 1:
            positions = (tuple(p for part in own for p in part.ints), tuple(p for part in own for p in part.floats))
            parts.append(RowPart(GROUP, group, *positions))
    return parts


def _find_feature(field: str, names: Iterable[str]) -> str:
    """Return the feature that a field of the layout belongs to: `by_item` for `by_item__rate_click__bucket`."""
    return max((name for name in names if field == name or field.startswith(f"{name}__")), key=len)


def _get_group(feature: Mapping[str, Any]) -> str:
    """Return the group of a feature."""
    if feature["kind"] in _KINDS:
        return _KINDS[feature["kind"]]
    column = feature["column"]
    first = str(column[0] if isinstance(column, list) else column)
    table, dot, _ = first.partition(".")
    return table if dot else {"user_id": "users", "item_id": "items"}.get(first, "impressions")
