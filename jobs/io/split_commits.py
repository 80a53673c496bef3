"""The commits of `split`: a night's is one, and its metadata hold the layout and the version of the vocabularies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from deltalake import DeltaTable

from star_ctr.conf.errors import DataError


def read_split_commit(table: str, ds: str) -> tuple[int, dict[str, Any]]:
    """The newest version of the split that wrote night `ds`, and the metadata of that commit."""
    found = find_split(table, ds)
    if found is None:
        raise DataError(f"{table}: holds no night {ds}; run `star-ctr split --ds {ds}`")
    return found


def find_split(table: str, ds: str) -> tuple[int, dict[str, Any]] | None:
    """The same, None where the split was never written or not for this night."""
    return next((commit for commit in _iter_night_commits(table) if commit[1]["ds"] == ds), None)


def find_split_before(table: str, ds: str) -> tuple[int, dict[str, Any]] | None:
    """The newest version of the newest night before `ds`; None where there is none."""
    earlier = [commit for commit in _iter_night_commits(table) if commit[1]["ds"] < ds]
    return max(earlier, key=lambda c: (c[1]["ds"], c[0]), default=None)


REMOVED = "removed"
"""Key in the metadata of a commit that lists the nights that the commit removed."""


def _iter_night_commits(table: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the versions that wrote a night, with their metadata, newest first; skips nights removed since."""
    removed: set[str] = set()
    for commit in DeltaTable(table).history() if DeltaTable.is_deltatable(table) else []:
        text = commit.get("userMetadata")
        metadata = json.loads(text) if text else {}
        removed.update(metadata.get(REMOVED, ()))
        if "ds" in metadata and metadata["ds"] not in removed:
            yield int(commit["version"]), metadata
