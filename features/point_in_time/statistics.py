"""Columns and scan plans of statistics with the cut `time`: counts of events by group, before the time of each row.

The columns hold raw counts. Rates are smoothed when rows are encoded.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

from pyspark.sql.types import DoubleType, StructField

from star_ctr.conf.contracts.column_names import name_count_column, name_since_column
from star_ctr.conf.settings.features import Statistic
from star_ctr.features.point_in_time.events import name_weight_column
from star_ctr.features.point_in_time.running_counts import CountPlan


def plan_counts(statistic: Statistic) -> CountPlan:
    """Return what a scan counts for a statistic, in terms of event columns."""
    return CountPlan(
        by=tuple(column.flat for column in statistic.by),
        sums=tuple(name_weight_column(kind) for kind in statistic.list_kinds()),
        since=tuple(name_weight_column(kind) for kind in statistic.since),
        names=tuple(list_names(statistic)),
    )


def list_statistic_fields(statistics: Seq[Statistic]) -> list[StructField]:
    """Return the fields of the columns of statistics, in the order in which `RunningCounts` returns them."""
    return [StructField(name, DoubleType()) for s in statistics for name in list_names(s)]


def list_names(statistic: Statistic) -> list[str]:
    """Return the names of the columns of a statistic: counts, then times since the last event."""
    counts = [name_count_column(statistic.name, kind) for kind in statistic.list_kinds()]
    return [*counts, *(name_since_column(statistic.name, kind) for kind in statistic.since)]
