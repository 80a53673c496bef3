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

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from star_ctr.conf.contracts.encoded_row import FIRST_KNOWN, UNKNOWN, Layout
from star_ctr.model.data.batch_order import DataFile
from star_ctr.model.data.reader import Rows, read_files

_PURPOSE = 2
"""Number that identifies this use of random numbers; see `batch_order.make_generator`."""
_NEVER = np.iinfo(np.int32).max
_RETURNING = frozenset({"hour", "weekday", "domain"})
"""Columns whose values return after a day or a week, so that a value that is new in the training days is not new."""


@dataclass(frozen=True)
class NewIds:
    """The first training day of each id.

    Attributes:
        tables: The embedding tables of the ids that may be masked, by position among the integers of a row.
        first_days: The first training day of each id as an ordinal, by embedding table, shape (ids,).
        largest: The largest id of all earlier training days, by embedding table and day; empty if vocabularies are
            fitted every night, whose ids have no order.
        first: The first training day as an ordinal.
        share: The share of the rows with a new id in which training masks it.
    """

    tables: dict[int, str]
    first_days: dict[str, npt.NDArray[np.int32]]
    largest: dict[str, dict[int, int]]
    first: int
    share: float

    def mask(self, rows: Rows, random: np.random.Generator | None = None) -> Rows:
        """Mask new ids: replace them by `UNKNOWN`.

        Args:
            rows: Rows with days.
            random: Draws the rows in which new ids are masked; by default, they are masked in all rows.

        Returns:
            The rows with masked ids.
        """
        assert rows.day is not None
        day, ints = _to_ordinals(rows.day), rows.ints.copy()
        for position, table in self.tables.items():
            ids = ints[:, position]
            is_new = (self.first_days[table][ids] == day) & (day > self.first) & (ids >= FIRST_KNOWN)
            for number, largest in self.largest.get(table, {}).items():
                is_new &= (day != number) | (ids > largest)
            if random is not None:
                is_new &= random.random(len(ids)) < self.share
            ids[is_new] = UNKNOWN
        return Rows(ints, rows.floats, rows.label, rows.domain, rows.day, rows.weight)


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
    first_days = {table: np.full(layout.embeddings[table], _NEVER, np.int32) for table in columns}
    largest: dict[str, dict[int, int]] = {table: {} for table in columns}
    days: set[int] = set()
    for rows in read_files(files, layout, days=True):
        assert rows.day is not None
        day = _to_ordinals(rows.day)
        found = np.unique(day).tolist()
        days |= set(found)
        for table, positions in columns.items():
            ids = rows.ints[:, positions]
            np.minimum.at(first_days[table], ids, day[:, None])
            for number in found:
                most = int(ids[day == number].max())
                largest[table][number] = max(most, largest[table].get(number, 0))
    if len(days) < 2 or not tables:
        return None
    before = {
        table: {day: max(by_day[d] for d in by_day if d < day) for day in sorted(by_day)[1:]}
        for table, by_day in largest.items()
    }
    return NewIds(tables, first_days, before if has_grown else {}, min(days), share)


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


def make_mask_generator(seed: int, epoch: int, file: int) -> np.random.Generator:
    """Return the random generator that draws which new ids of a file are masked in an epoch."""
    return np.random.default_rng(np.random.SeedSequence([seed, epoch, _PURPOSE, file]))


def _to_ordinals(days: npt.NDArray[np.object_]) -> npt.NDArray[np.int32]:
    """Return days as ordinals."""
    found = pa.array(days, pa.string()).dictionary_encode()
    ordinals = np.array([dt.date.fromisoformat(d).toordinal() for d in found.dictionary.to_pylist()], np.int32)
    numbers: npt.NDArray[np.int32] = ordinals[found.indices.to_numpy()]
    return numbers
