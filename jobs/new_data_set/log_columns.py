"""The columns of a log, and those that were chosen for its keys."""

from __future__ import annotations

from typing import NamedTuple

from star_ctr.jobs.new_data_set.columns import Column
from star_ctr.jobs.new_data_set.keys import ColumnChoice
from star_ctr.jobs.new_data_set.log_samples import LogSample

MIN_SHARED = 0.3
"""Minimum share of the values of a key that must occur in the log that it refers to."""
MIN_NAMED = 0.01
"""The same, if the name of the column says that it is this key: two samples may have few ids in common."""


class LogColumns(NamedTuple):
    """A log with its columns."""

    sample: LogSample
    columns: dict[str, Column]

    @property
    def n_rows(self) -> int:
        """The number of rows in the sample."""
        return len(self.sample.rows)


class LogRole(NamedTuple):
    """A log, and the columns that were chosen for its keys."""

    log: LogColumns
    columns: dict[str, ColumnChoice]

    @property
    def is_daily(self) -> bool:
        """Whether attributes are daily snapshots."""
        return bool(self.log.sample.group.days or self.columns["day"].column)


def compare_values(one: Column, other: Column) -> tuple[float, int]:
    """Return the share of distinct values that two columns have in common, and their number."""
    ours, theirs = set(one.values.astype(str)), set(other.values.astype(str))
    return len(ours & theirs) / max(min(len(ours), len(theirs)), 1), len(ours & theirs)
