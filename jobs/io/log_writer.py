"""Write the rows of a log to its table, with its quarantine, ledger entries and profile, for the days that changed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.contracts.dates import UNDATED, UNKNOWN_DAY, list_window_days
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.logs import AttributeLog, BehaviourLog
from star_ctr.conf.settings.root import Settings
from star_ctr.features.cleaning.clean_log import NOT_QUARANTINED, clean_log, dump_row
from star_ctr.features.cleaning.first_seen import KNOWN, find_new_events, find_new_rows, select_known_rows
from star_ctr.features.cleaning.log_columns import find_missing_columns, list_declared_columns, name_stored_column
from star_ctr.features.cleaning.raw_rows import RawRows
from star_ctr.jobs.io import log_reader
from star_ctr.jobs.io.day_records import PARTS, UNKNOWN, DayRecord, DayRecords
from star_ctr.jobs.io.ingest_plan import LogPlan, has_log_days, list_records_of_night, plan_log
from star_ctr.jobs.io.log_files import UNWINDOWED_LOGS, list_files, make_glob
from star_ctr.jobs.io.log_times import TIMES
from star_ctr.jobs.io.newest_day import find_newest_day
from star_ctr.jobs.io.table_hashes import HASH, hash_days, merge_hashes
from star_ctr.jobs.io.warehouse import (
    LedgerEntry,
    WarehouseTables,
    make_in_condition,
    quote_spark_literal,
    repartition_by_day,
)
from star_ctr.jobs.quality.log_profile import RowCount, collect_row_counts, profile_log
from star_ctr.jobs.quality.measures import Measure, write_measures

_logger = logging.getLogger(__name__)
_MEASURES, _READ, _EMPTY = "measures", "read", "empty"
"""Keys of a record: the profile of a log without days, the number of rows read if some may have no day, and whether no
row of the day was read."""


class WrittenLog(NamedTuple):
    """The rows of a log.

    Attributes:
        rows: The number of rows in the table of the days that the night reads.
        read: The number of rows read of all days, if some may have no day; else None.
    """

    rows: int
    read: int | None


def write_log(settings: Settings, store: WarehouseTables, name: str, ds: str) -> WrittenLog:
    """Write the days of a log that a night reads, except for those whose files have not changed.

    Args:
        settings: The settings of the data set.
        store: The tables.
        name: The log.
        ds: The night.

    Returns:
        The rows of the log.

    Raises:
        DataError: No file of `impressions` exists for the window, `impressions` has no rows for the day, or the log
            cannot be read.
    """
    records, part = DayRecords(settings), f"ingest.{name}"
    known = records.read(part) if store.exists(name) else {}
    plan = plan_log(settings, name, ds, list_files(settings, name), known)
    if plan.adds_rows and plan.read == []:
        if ds in store.list_days(name):  # written by a killed attempt, which read other files
            store.replace(name, store.read(name).limit(0), make_in_condition("ds", [ds]))
        records.write(part, {day: DayRecord(i, {HASH: {}, PARTS: plan.parts[day]}) for day, i in plan.inputs.items()})
    elif plan.inputs:
        _logger.info("%s: writing %s; %d days are up to date", name, ", ".join(plan.inputs), len(plan.kept))
        _write_days(settings, store, name, ds, plan)
    current = list_records_of_night(settings, name, ds, records.read(part))
    if name == "impressions" and ds in current and current[ds].outputs.get(_EMPTY):
        raise DataError(_explain_empty_day(settings, store, ds))
    if not has_log_days(settings.logs.get_declared()[name]):
        _write_profile_of_night(settings, name, ds, current)
    read = [record.outputs[_READ] for record in current.values() if _READ in record.outputs]
    return WrittenLog(_count_rows(merge_hashes(current.values())), max(read, default=None))


def _write_days(settings: Settings, store: WarehouseTables, name: str, ds: str, plan: LogPlan) -> None:
    """Write the rows of the planned days, and then their records."""
    log, days = settings.logs.get_declared()[name], list(plan.inputs)
    raw = log_reader.read(settings, store.spark, name, plan.read)
    if raw is None:
        if name == "impressions" and not plan.kept:
            window = list_window_days(settings, ds)
            raise DataError(
                f"logs.impressions.path: {make_glob(settings, log)} matches no file for {window[0]} to {ds}; check "
                f"--ds and paths.logs ({settings.paths.logs})"
            )
        if not store.exists(name):
            return
    rows = _clean(settings, store, name, raw)
    where = _select_written(name, ds, plan)
    rows = (rows.withColumn("ds", F.lit(ds)) if plan.adds_rows else rows.where(where)).persist()
    try:
        counts = collect_row_counts(settings, rows)
        ledger = _sum_ledger_entries(counts)
        found = {entry.ds for entry in ledger}
        if name == "impressions" and ds in days and ds not in found:
            raise DataError(_explain_empty_day(settings, store, ds))
        read = sum(group.rows.count() for group in raw.values()) if UNKNOWN_DAY in found and raw is not None else None
        part, records = f"ingest.{name}", DayRecords(settings)
        records.remove(part, {*days, *_list_replaced(records.read(part), name, ds, plan)})
        order = ["key"] if name in ("users", "items") else ["user_id", "ts"] if "user_id" in rows.columns else ["ts"]
        good = rows.where(F.col("reason").isNull()).drop("reason", "raw")
        if plan.adds_rows:
            known = select_known_rows(store.read(name), ds, has_keys=isinstance(log, AttributeLog))
            good = (find_new_events if isinstance(log, BehaviourLog) else find_new_rows)(good, known, ds)
        store.replace(name, repartition_by_day(good).sortWithinPartitions("ds", *order), where)
        hashes = hash_days(store, name, sorted({*found, *days}))
        if plan.adds_rows:
            ledger = _count_known(ledger, _count_rows(hashes))
        _write_quarantine(store, name, rows, where, any(e.reason not in ("", *NOT_QUARANTINED) for e in ledger))
        store.write_ledger("ingest" if name == "impressions" else f"ingest.{name}", ledger, where)
        measures = _profile(settings, name, ds, rows, counts, plan)
        records.write(part, _make_records(store, name, plan, found, hashes, measures, read))
    finally:
        rows.unpersist()


def _select_written(name: str, ds: str, plan: LogPlan) -> str:
    """Return the condition that selects the rows to write and to replace."""
    if plan.starts_over:
        return "ds IS NOT NULL"
    # A log that is read as a whole replaces all its days, which removes the days of deleted files.
    if plan.is_whole and not plan.adds_rows and name in UNWINDOWED_LOGS:
        dated = f"ds <= {quote_spark_literal(ds)}"
    else:
        dated = make_in_condition("ds", list(plan.inputs))
    has_undated = not plan.adds_rows and (plan.is_whole or not plan.kept)
    return f"{dated} OR {make_in_condition('ds', UNDATED)}" if has_undated else dated


def _list_replaced(days: Iterable[str], name: str, ds: str, plan: LogPlan) -> list[str]:
    """Return the recorded days, besides those of the plan, whose rows are replaced."""
    if plan.adds_rows or not plan.is_whole:
        return []
    reaches_back = name in UNWINDOWED_LOGS
    return [day for day in days if day in UNDATED or plan.starts_over or (reaches_back and day <= ds)]


def _count_known(ledger: Iterable[LedgerEntry], written: int) -> list[LedgerEntry]:
    """Split the valid rows of a log without days into those that were written and those that were known before."""
    entries = list(ledger)
    good = [e for e in entries if not e.reason]
    known = sum(e.rows_out for e in good) - written
    others = [e for e in entries if e.reason]
    return [
        *others,
        *(e._replace(rows_in=written, rows_out=written) for e in good[:1] if written),
        *(e._replace(rows_in=known, rows_out=0, reason=KNOWN) for e in good[:1] if known),
    ]


def _count_rows(hashes: Mapping[str, str]) -> int:
    """Return the number of rows in hashes of `table_hashes.hash_days`."""
    return sum(int(rows.partition(":")[0]) for rows in hashes.values())


def _clean(settings: Settings, store: WarehouseTables, name: str, raw: dict[str, RawRows] | None) -> DataFrame:
    """Clean the rows that were read; raises `DataError` for a column that neither they nor the table has."""
    if raw is None:
        rows = store.read(name).limit(0)
        return rows.withColumns({"reason": F.lit(None).cast("string"), "raw": F.lit(None).cast("string")})
    stored = set(store.read(name).columns) if store.exists(name) else set()
    known = {column for column in list_declared_columns(settings, name) if name_stored_column(column) in stored}
    columns = {column for group in raw.values() for column in group.rows.columns}
    if missing := find_missing_columns(settings, name, columns | known):
        raise DataError("\n".join(missing))
    return clean_log(settings, name, raw, known=known)


def _explain_empty_day(settings: Settings, store: WarehouseTables, ds: str) -> str:
    """Return the message for a night without impressions."""
    log, remedy = settings.logs.impressions, "write the logs of this day again"
    if not log.has_day:
        remedy = f"the newest complete day is {find_newest_day(settings, store.spark)}"
    return f"{make_glob(settings, log)}: no rows for day {ds}; {remedy}, or pass another day with --ds"


def _make_records(
    store: WarehouseTables,
    name: str,
    plan: LogPlan,
    found: Iterable[str],
    hashes: Mapping[str, str],
    measures: list[Measure],
    read: int | None,
) -> dict[str, DayRecord]:
    """Return the records of the written days."""
    found = set(found)
    times = _find_times(store, name, hashes)
    records = {}
    for day in {*plan.inputs, *hashes}:
        outputs = {HASH: {day: hashes[day]} if day in hashes else {}, TIMES: {day: times[day]} if day in times else {}}
        outputs |= {} if day in found else {_EMPTY: True}
        outputs |= {_READ: read} if read is not None and day in plan.inputs else {}
        outputs |= {_MEASURES: [list(m) for m in measures]} if measures else {}
        outputs |= {PARTS: plan.parts[day], **plan.outputs} if day in plan.inputs else {}
        # Other days of a log that is read as a whole are known to exist, but are read again for their own night.
        records[day] = DayRecord(plan.inputs.get(day, UNKNOWN), outputs)
    return records


def _find_times(store: WarehouseTables, name: str, days: Iterable[str]) -> dict[str, list[str]]:
    """Return the calendar days of the first and the last time of each log day; empty for logs without times."""
    rows = store.read(name).where(F.col("ds").isin(list(days)))
    if "ts" not in rows.columns:
        return {}
    local = F.to_date(F.from_utc_timestamp("ts", store.settings.zone)).cast("string")
    found = rows.groupBy("ds").agg(F.min(local).alias("first"), F.max(local).alias("last")).collect()
    return {r.ds: [r.first, r.last] for r in found if r.first}


def _sum_ledger_entries(counts: Iterable[RowCount]) -> list[LedgerEntry]:
    """Sum the counts of all hours."""
    sums: dict[tuple[str, str, str], int] = {}
    for count in counts:
        key = (count.ds, count.domain, count.reason)
        sums[key] = sums.get(key, 0) + count.rows
    return [LedgerEntry(ds, domain, n, 0 if reason else n, reason) for (ds, domain, reason), n in sums.items()]


def _profile(
    settings: Settings, name: str, ds: str, rows: DataFrame, counts: Iterable[RowCount], plan: LogPlan
) -> list[Measure]:
    """Profile the written days of the window, and replace their measures; returns those of a log without days."""
    wanted = [day for day in list_window_days(settings, ds) if day in plan.inputs]
    log = settings.logs.get_declared()[name]
    if not has_log_days(log):
        return profile_log(settings, name, rows, counts) if isinstance(log, AttributeLog) else []
    if plan.is_whole and name in UNWINDOWED_LOGS:
        wanted = list_window_days(settings, ds)
    found = profile_log(settings, name, rows.where(F.col("ds").isin(wanted)), [c for c in counts if c.ds in wanted])
    if wanted:
        write_measures(settings, "ingest", found, f"log = '{name}' AND {make_in_condition('ds', wanted)}")
    return []


def _write_profile_of_night(settings: Settings, name: str, ds: str, records: Mapping[str, DayRecord]) -> None:
    """Write the profile of a log without days, which describes it as of the night."""
    order = sorted(records, key=lambda day: "" if day in UNDATED else day)
    newest = [records[day].outputs[_MEASURES] for day in order if records[day].outputs.get(_MEASURES)][-1:]
    stored = (Measure(*values)._replace(ds=ds) for measures in newest for values in measures)
    write_measures(settings, "ingest", stored, f"log = '{name}' AND ds = '{ds}'")


def _write_quarantine(store: WarehouseTables, name: str, rows: DataFrame, where: str, has_invalid: bool) -> None:
    """Replace the quarantined rows of a log; does nothing if neither the existing table nor `rows` has any."""
    exists = store.exists("quarantine")
    if exists and not has_invalid and not any(p["log"] == name for p in store.list_partitions("quarantine")):
        return
    invalid = rows.where(F.col("reason").isNotNull() & ~F.col("reason").isin(*NOT_QUARANTINED))
    quarantined = invalid.select(F.lit(name).alias("log"), "ds", "reason", dump_row(invalid).alias("row"))
    store.replace("quarantine", repartition_by_day(quarantined), f"log = '{name}' AND ({where})")
