"""Masking of new ids: training treats some ids as unknown on the day of their first occurrence, as scoring does.

The vocabulary of a night contains all ids of its training days. On the next day, many ids are new, for example articles
that were just published, and their rows get the id `UNKNOWN`. In training rows, only values below `min_count` are
unknown, most of them because they are unpopular. So without masks, new ids are predicted like unpopular ones.

A training row is therefore sometimes encoded as it would have been on its own day: an id that no earlier training day
contains becomes `UNKNOWN`. On the first training day, every id is new, so its rows stay as they are.
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


@dataclass(frozen=True)
class NewIds:
    """The first training day of each id.

    Attributes:
        tables: The embedding tables of the ids that may be masked, by position among the integers of a row.
        first_days: The first training day of each id as an ordinal, by embedding table, shape (ids,).
        first: The first training day as an ordinal.
        share: The share of the rows with a new id in which training masks it.
    """

    tables: dict[int, str]
    first_days: dict[str, npt.NDArray[np.int32]]
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
            if random is not None:
                is_new &= random.random(len(ids)) < self.share
            ids[is_new] = UNKNOWN
        return Rows(ints, rows.floats, rows.label, rows.domain, rows.day, rows.weight)


def find_new_ids(files: Sequence[DataFile], layout: Layout, share: float) -> NewIds | None:
    """Read all training rows, and find the first day of each id.

    Hashed ids are left out: a new value shares its id with other values.

    Args:
        files: The training files.
        layout: The layout of the encoded rows.
        share: The share of the rows with a new id in which training masks it.

    Returns:
        The first days; None if there is only one training day, or no id could be new.
    """
    tables = {k: f.embedding for k, f in enumerate(layout.categorical) if f.embedding not in layout.hashed}
    first_days = {table: np.full(layout.embeddings[table], _NEVER, np.int32) for table in tables.values()}
    days: set[int] = set()
    for rows in read_files(files, layout, days=True):
        assert rows.day is not None
        day = _to_ordinals(rows.day)
        days |= set(np.unique(day).tolist())
        for position, table in tables.items():
            np.minimum.at(first_days[table], rows.ints[:, position], day)
    return NewIds(tables, first_days, min(days), share) if len(days) > 1 and tables else None


def make_mask_generator(seed: int, epoch: int, file: int) -> np.random.Generator:
    """Return the random generator that draws which new ids of a file are masked in an epoch."""
    return np.random.default_rng(np.random.SeedSequence([seed, epoch, _PURPOSE, file]))


def _to_ordinals(days: npt.NDArray[np.object_]) -> npt.NDArray[np.int32]:
    """Return days as ordinals."""
    found = pa.array(days, pa.string()).dictionary_encode()
    ordinals = np.array([dt.date.fromisoformat(d).toordinal() for d in found.dictionary.to_pylist()], np.int32)
    numbers: npt.NDArray[np.int32] = ordinals[found.indices.to_numpy()]
    return numbers
