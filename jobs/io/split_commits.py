"""Find the commits of a split table by night.

Each night is written in one commit, whose metadata contains the layout and the version of the vocabularies.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from deltalake import DeltaTable

from star_ctr.conf.errors import DataError


def read_split_commit(table: str, ds: str) -> tuple[int, dict[str, Any]]:
    """Read the newest commit that wrote a night.

    Args:
        table: Path or URL of the split table.
        ds: The night.

    Returns:
        The version of the commit, and its metadata.

    Raises:
        DataError: The table does not have this night.
    """
    found = find_split(table, ds)
    if found is None:
        raise DataError(f"{table}: no rows for night {ds}; run `star-ctr split --ds {ds}`")
    return found


def find_split(table: str, ds: str) -> tuple[int, dict[str, Any]] | None:
    """Like `read_split_commit`, but returns None if the table or the night does not exist."""
    return next((commit for commit in _iter_night_commits(table) if commit[1]["ds"] == ds), None)


def find_split_before(table: str, ds: str) -> tuple[int, dict[str, Any]] | None:
    """Return the newest commit of the newest night before `ds`, like `read_split_commit`; None if there is none."""
    earlier = [commit for commit in _iter_night_commits(table) if commit[1]["ds"] < ds]
    return max(earlier, key=lambda c: (c[1]["ds"], c[0]), default=None)


DAYS = "days"
"""Metadata key with the training days of a night, if the split stores them once for all nights."""
LINEAGE = "lineage"
"""Metadata key with the hashes that identify a night's vocabularies and those that they extend, newest first."""
EXPIRED = "expired"
"""Metadata key with the number of values that expired on a night, by embedding table; missing if there are none."""
REMOVED = "removed"
"""Metadata key with the list of nights that a commit removed."""


def read_lineage(table: str, version: int) -> list[str]:
    """Read the hashes of the vocabularies of a night, and of all earlier vocabularies that they extend.

    The metadata of a commit lists only those that its training window needs. Older ones are read from the commits of
    earlier nights.

    Args:
        table: Path or URL of the split table.
        version: The version of the commit that wrote the night.

    Returns:
        The hashes, newest first; empty if the vocabularies of the night did not grow.
    """
    by_version = {number: metadata.get(LINEAGE, []) for number, metadata in _iter_night_commits(table)}
    lineage = list(by_version.get(version, []))
    extended = {found[0]: found[1:] for found in by_version.values() if found}
    while lineage and (earlier := [name for name in extended.get(lineage[-1], []) if name not in lineage]):
        lineage += earlier
    return lineage


def _iter_night_commits(table: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the commits that wrote a night, as version and metadata, newest first; skips nights removed later."""
    removed: set[str] = set()
    for commit in DeltaTable(table).history() if DeltaTable.is_deltatable(table) else []:
        text = commit.get("userMetadata")
        metadata = json.loads(text) if text else {}
        removed.update(metadata.get(REMOVED, ()))
        if "ds" in metadata and metadata["ds"] not in removed:
            yield int(commit["version"]), metadata
