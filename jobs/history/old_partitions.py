"""Find and remove partitions of the state of the history that a base contains. Needs no Spark session."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
from deltalake import DeltaTable

from star_ctr.conf.contracts.catalog import Warehouse
from star_ctr.conf.contracts.dates import BEFORE_FIRST_DAY
from star_ctr.conf.settings.root import Settings
from star_ctr.features.point_in_time.daily_counts import list_groups
from star_ctr.jobs.history.merged_state import HISTORY_PART, name_merged_part
from star_ctr.jobs.history.roll_ups import EPOCH, Partition, count_days, format_day, group_by_span
from star_ctr.jobs.io.day_records import DayRecords
from star_ctr.jobs.io.delta_rows import make_any_condition

HISTORY_TABLES = ("history_counts", "history_events")


def find_base_for_cleaning(settings: Settings, newest: str, age: int) -> str | None:
    """Find the newest base that ends before the days to keep, but not the newest of all.

    Nights read the days between the two newest bases one by one.

    Args:
        settings: The data set.
        newest: The newest night.
        age: The number of days before it to keep.

    Returns:
        The day after the last day of the base; None if there is no such base.
    """
    horizon = max((group.horizon for group in list_groups(settings)), default=0)
    # Keep the window of the next night, and the days before it that are read one by one.
    limit = count_days(newest) - max(age, settings.window.days + horizon)
    earlier = sorted(DayRecords(settings).read(name_merged_part(None)))[:-1]
    return max((end for end in earlier if count_days(end) <= limit), default=None)


def is_in_base(partition: Partition, base: str) -> bool:
    """Return whether a partition is not a base, and was merged into the base ending before `base`."""
    span, ds = partition
    return ds != EPOCH and (ds == BEFORE_FIRST_DAY or count_days(ds) + span <= count_days(base))


def measure_old_partitions(warehouse: Warehouse, table: str, base: str) -> dict[Partition, int]:
    """Return the size in bytes of each partition that was merged into the base ending before `base`."""
    path = warehouse.table(table)
    if not DeltaTable.is_deltatable(path):
        return {}
    actions = pa.table(DeltaTable(path).get_add_actions(flatten=True))
    names = ("partition.span", "partition.ds", "size_bytes")
    sizes: dict[Partition, int] = {}
    for span, ds, size in zip(*(actions[name].to_pylist() for name in names), strict=True):
        partition = Partition(int(span), ds)
        if is_in_base(partition, base):
            sizes[partition] = sizes.get(partition, 0) + size
    return sizes


def describe_partition(partition: Partition) -> str:
    """Return the days of a partition as text."""
    if partition.span == 1:
        return partition.ds
    return f"{partition.ds} to {format_day(count_days(partition.ds) + partition.span - 1)}"


def remove_records(settings: Settings, partitions: Iterable[Partition]) -> None:
    """Remove the records of partitions, so that they count as not stored."""
    for span, days in group_by_span(partitions).items():
        DayRecords(settings).remove(HISTORY_PART if span == 1 else name_merged_part(span), days)


def remove_partitions(settings: Settings, table: str, partitions: Iterable[Partition]) -> None:
    """Remove partitions of a table. Call `remove_records` before, so that no record refers to deleted rows."""
    groups = group_by_span(partitions).items()
    conditions = (f"(span = {span} AND {make_any_condition('ds', days)})" for span, days in groups)
    DeltaTable(Warehouse(settings.paths).table(table)).delete(" OR ".join(conditions))
