"""Masking of new ids: training treats some ids as unknown on the day of their first occurrence, as scoring does.

The vocabulary of a night contains all ids of its training days. On the next day, many ids are new, for example articles
that were just published, and their rows get the id `UNKNOWN`. In training rows, only values below `min_count` are
unknown, most of them because they are unpopular. So without masks, new ids are predicted like unpopular ones.

A training row is therefore sometimes encoded as it would have been on its own day: an id that no earlier training day
contains becomes `UNKNOWN`. On the first training day, every id is new, so its rows stay as they are.

If vocabularies grow, ids are assigned in the order of the nights. Then an id is only new if it is also larger than all
ids of earlier training days: a user who returns after a week is not new.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from star_ctr.conf.contracts.encoded_row import FIRST_KNOWN, UNKNOWN, Layout
from star_ctr.model.data.batch_order import DataFile
from star_ctr.model.data.reader import Rows, read_files

_NEVER = np.iinfo(np.int32).max
_RETURNING = frozenset({"hour", "weekday", "domain"})
"""Columns whose values return after a day or a week, so that a value that is new in the training days is not new."""


@dataclass(frozen=True)
class NewIds:
    """The day on which each id is new.

    Attributes:
        tables: The embedding tables of the ids that may be masked, by position among the integers of a row.
        days: The training day on which each id is new as an ordinal, by embedding table, shape (ids,); `_NEVER` for ids
            that are not new on any training day.
        share: The share of the rows with a new id in which training masks it.
    """

    tables: dict[int, str]
    days: dict[str, npt.NDArray[np.int32]]
    share: float

    def mask(self, rows: Rows, random: np.random.Generator | None = None) -> Rows:
        """Mask new ids: replace them by `UNKNOWN`.

        Args:
            rows: Rows with days.
            random: Draws the rows in which new ids are masked; by default, they are masked in all rows.

        Returns:
            The rows with masked ids.
        """
        day, ints = rows.number_days(), rows.ints.copy()
        for position, table in self.tables.items():
            ids = ints[:, position]
            is_new = self.days[table][ids] == day
            if random is not None:
                is_new &= random.random(len(ids)) < self.share
            ids[is_new] = UNKNOWN
        return replace(rows, ints=ints)


def find_new_ids(files: Sequence[DataFile], layout: Layout, share: float, has_grown: bool = False) -> NewIds | None:
    """Read all training rows, and find the first day of each id, alone or in a sequence.

    Hashed ids are left out: a new value has an id that other values have, too. So are the hour, the weekday and the
    domain of the impression, whose values return.

    Args:
        files: The training files.
        layout: The layout of the encoded rows.
        share: The share of the rows with a new id in which training sees it as unknown.
        has_grown: Whether the vocabularies extend those of earlier nights.

    Returns:
        The first days; None if there is only one training day, or no id could be new.
    """
    tables = {
        k: f.embedding
        for k, f in enumerate(layout.categorical)
        if f.embedding not in layout.hashed and not _RETURNING & {*f.columns}
    }
    columns = _list_columns(layout, set(tables.values()))
    days = {table: np.full(layout.embeddings[table], _NEVER, np.int32) for table in columns}
    found: set[int] = set()
    for rows in read_files(files, layout, days=True):
        day = rows.number_days()
        found |= set(np.unique(day).tolist())
        for table, positions in columns.items():
            np.minimum.at(days[table], rows.ints[:, positions], day[:, None])
    if len(found) < 2 or not tables:
        return None
    for first_days in days.values():
        first_days[:FIRST_KNOWN] = _NEVER
        if has_grown:
            _drop_returning(first_days)
        first_days[first_days == min(found)] = _NEVER
    return NewIds(tables, days, share)


def _drop_returning(first_days: npt.NDArray[np.int32]) -> None:
    """Drop the ids of a grown vocabulary that are smaller than an id of an earlier day: they were added before."""
    largest = 0
    for day in np.unique(first_days[first_days != _NEVER]):
        ids = np.flatnonzero(first_days == day)
        first_days[ids[ids <= largest]] = _NEVER
        largest = max(largest, int(ids.max()))


def _list_columns(layout: Layout, tables: set[str]) -> dict[str, list[int]]:
    """Return the positions of the integers that are ids of some embedding tables, alone or in a sequence."""
    columns: dict[str, list[int]] = {table: [] for table in tables}
    for k, field in enumerate(layout.categorical):
        if field.embedding in tables:
            columns[field.embedding].append(k)
    for sequence, offset in layout.iter_sequence_offsets():
        for side, start in sequence.iter_offsets(offset):
            if side.embedding in tables:
                columns[side.embedding] += range(start, start + sequence.length)
    return columns
