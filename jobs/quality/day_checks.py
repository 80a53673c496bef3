"""Data quality checks that stop the night if a day of logs exceeds the limits in the settings section `checks`.

They run after the tables, the quarantine and the ledger are written, so that the data can be inspected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

from pyspark.sql import functions as F

from star_ctr.conf.contracts.catalog import SHARED_RUN_ID, Warehouse
from star_ctr.conf.contracts.dates import BEFORE_FIRST_DAY, NO_DAY, UNKNOWN_DAY, list_days, list_window_days
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.features.cleaning.clean_log import (
    NOT_QUARANTINED,
    UNKNOWN_DOMAIN,
    UNREADABLE,
)
from star_ctr.features.cleaning.duplicates import CONFLICT
from star_ctr.features.cleaning.label_values import UNDECLARED_LABEL, UNDECLARED_OUTCOME
from star_ctr.features.cleaning.text import LOST_DIGITS
from star_ctr.features.cleaning.times import OUTSIDE_BOUNDS, UNUSABLE
from star_ctr.features.cleaning.weights import INVALID_WEIGHT, MISSING_WEIGHT
from star_ctr.features.point_in_time.attribution import EARLY, MATCHED
from star_ctr.jobs.io.delta_rows import read_rows
from star_ctr.jobs.io.log_files import list_log_days
from star_ctr.jobs.io.warehouse import LedgerEntry, WarehouseTables, make_in_condition, quote_spark_literal
from star_ctr.jobs.quality.profile import DomainCount

_REMEDIES = {
    UNDECLARED_OUTCOME: "declare the values in label.also",
    UNDECLARED_LABEL: "declare the values in label.positive and label.negative",
    UNUSABLE: "set unit, format or zone of logs.{log}.time",
    OUTSIDE_BOUNDS: "set unit, or earliest and latest, of logs.{log}.time",
    CONFLICT: "check that the column identifies a row",
    LOST_DIGITS: "write the log with integers or text",
    MISSING_WEIGHT: "for a default, compute the weight in logs.{log}.columns, for example with coalesce",
    INVALID_WEIGHT: "correct the weights, or compute them in logs.{log}.columns",
    UNREADABLE: "check the separator and the quotes; set logs.{log}.multiline if quoted values contain line breaks",
}
"""Remedies by a part of the reason for quarantine."""
_VALUES = 3
"""Number of example values in a message."""


class QuarantineCount(NamedTuple):
    """The quarantined rows of a log and day.

    Attributes:
        log: The log.
        day: The day; for rows without a day one of `unknown` (unreadable time), `before` and `all`.
        rows: Number of rows that were read, quarantined or not.
        reasons: Number of quarantined rows by reason.
    """

    log: str
    day: str
    rows: int
    reasons: dict[str, int]

    @property
    def share(self) -> float:
        """The share of the rows that are quarantined."""
        return sum(self.reasons.values()) / max(self.rows, 1)


def check_quarantine(settings: Settings, store: WarehouseTables, ds: str, rows_read: Mapping[str, int]) -> None:
    """Check the share of quarantined rows of each log and day.

    Checks all days of the training window, because the model is trained on them.

    Args:
        settings: The data set.
        store: Its tables; the ledger and the quarantine hold the ingested days.
        ds: The day of the night.
        rows_read: Number of rows read by log, for rows without a day.

    Raises:
        DataError: The share of quarantined rows exceeds `checks.max_quarantined`.
    """
    limit = settings.checks.max_quarantined
    entries = _read_ingest_entries(settings, list_window_days(settings, ds))
    exceeded = [found for found in count_quarantined_days(entries, rows_read) if found.share > limit]
    if not exceeded:
        return
    worst = max(exceeded, key=lambda q: (q.share, q.day))
    reason = max(worst.reasons, key=lambda r: worst.reasons[r])
    values = _find_frequent_values(store, worst, reason)
    shown = f" (values: {', '.join(f'`{v}`' for v in values)})" if values else ""
    remedy = find_remedy(reason, worst.log)
    more = f"; {len(exceeded) - 1} more days exceed the limit" if len(exceeded) > 1 else ""
    total = f"the {worst.rows:,} rows of {worst.day}" if worst.day != UNKNOWN_DAY else f"all {worst.rows:,} rows"
    raise DataError(
        f"logs.{worst.log}: {worst.share:.0%} of {total} are quarantined (checks.max_quarantined: {limit:.0%}), most "
        f"often because of `{reason}`{shown}{more}{'; ' + remedy if remedy else ''}. See the table `quarantine`: "
        f"star-ctr tables --conf FILE --show quarantine --where \"log = '{worst.log}'\""
    )


def find_remedy(reason: str, log: str) -> str:
    """Return what to change in the settings if rows of a log are quarantined for a reason; empty if unknown."""
    return next((text.format(log=log) for part, text in _REMEDIES.items() if part in reason), "")


def describe_quarantine(settings: Settings, ds: str) -> list[str]:
    """Describe the quarantined rows of day `ds` and the quarantined rows without a day; needs no Spark.

    Returns:
        One line per log and reason.
    """
    return [
        f"{count:,} rows of logs.{found.log} are quarantined: {reason}"
        for found in count_quarantined_days(_read_ingest_entries(settings, [ds]), {})
        for reason, count in sorted(found.reasons.items(), key=lambda item: -item[1])
    ]


def describe_unread_days(settings: Settings, ds: str) -> list[str]:
    """Describe the days of the impression log before the first ingested day, if night `ds` is the first one.

    Needs no Spark. A night reads the days of its window, and events of earlier days are not in the history.

    Returns:
        One line, or none.
    """
    first = list_window_days(settings, ds)[0]
    ingested = WarehouseTables(settings, cast(Any, None)).list_days("impressions")  # reads only the Delta log
    if not settings.history or ingested[0] < first:
        return []
    # Only the first night lists the files.
    unread = [day for day in list_log_days(settings, "impressions") if day < first]
    if not unread:
        return []
    days = len(list_days(unread[0], ds)) - 1
    return [
        f"the history begins on {ingested[0]}, but the logs begin on {unread[0]}; to include all days, run `star-ctr "
        f"ingest --ds {ds} --set window.days={days}`, and then the night again"
    ]


def _read_ingest_entries(settings: Settings, days: Iterable[str]) -> list[dict[str, Any]]:
    """Read the ledger entries of ingest for the given days and for rows without a day."""
    condition = make_in_condition("ds", [*days, NO_DAY, BEFORE_FIRST_DAY, UNKNOWN_DAY])
    return read_rows(
        Warehouse(settings.paths).table("ledger"), f"run_id = '{SHARED_RUN_ID}' AND step LIKE 'ingest%' AND {condition}"
    )


def read_click_entries(settings: Settings, days: Iterable[str], outcome: str | None = None) -> list[LedgerEntry]:
    """Read the ledger entries of the clicks of some days, or of the events of an outcome, by domain and status."""
    step = f"attribute.{outcome}" if outcome else "attribute"
    where = f"run_id = '{SHARED_RUN_ID}' AND step = '{step}' AND {make_in_condition('ds', list(days))}"
    rows = read_rows(Warehouse(settings.paths).table("ledger"), where)
    return [LedgerEntry(r["ds"], r["domain"], r["rows_in"], r["rows_out"], r["reason"]) for r in rows]


def count_quarantined_days(entries: Iterable[Mapping[str, Any]], rows_read: Mapping[str, int]) -> list[QuarantineCount]:
    """Count the quarantined rows of each log and day from ledger entries.

    Duplicates, rows that `where` leaves out, and rows of undeclared domains are not counted.

    Args:
        entries: Ledger entries of ingest, with `step`, `ds`, `reason`, `rows_in` and `rows_out`.
        rows_read: Number of rows read by log. Rows with an unreadable time have no day, so their share is relative to
            this number.

    Returns:
        One count for each log and day with quarantined rows.
    """
    rows: dict[tuple[str, str], int] = {}
    reasons: dict[tuple[str, str], dict[str, int]] = {}
    for entry in entries:
        log = entry["step"].partition(".")[2] or "impressions"
        key = (log, entry["ds"])
        rows[key] = rows.get(key, 0) + entry["rows_in"]
        why = entry["reason"]
        if why and why not in NOT_QUARANTINED and not why.startswith(UNKNOWN_DOMAIN):
            day_reasons = reasons.setdefault(key, {})
            day_reasons[why] = day_reasons.get(why, 0) + entry["rows_in"] - entry["rows_out"]
    return [
        QuarantineCount(
            log, day, rows_read.get(log, rows[log, day]) if day == UNKNOWN_DAY else rows[log, day], day_reasons
        )
        for (log, day), day_reasons in sorted(reasons.items())
    ]


def _find_frequent_values(store: WarehouseTables, found: QuarantineCount, reason: str) -> list[str]:
    """Return the most frequent values of the column that the reason names, among the rows quarantined for it."""
    column = reason.partition(":")[0].replace("'", "\\'")
    rows = store.read("quarantine").where(
        f"log = '{found.log}' AND ds = {quote_spark_literal(found.day)} AND reason = {quote_spark_literal(reason)}"
    )
    value = F.coalesce(F.get_json_object("row", f"$['{column}']"), F.lit(""))
    counts = rows.groupBy(value.alias("value")).count().orderBy(F.desc("count"), "value").limit(_VALUES).collect()
    return [r.value[:40] for r in counts] if any(r.value for r in counts) else []


def check_labels(
    settings: Settings, store: WarehouseTables, ds: str, clicks: Iterable[LedgerEntry], domains: Iterable[DomainCount]
) -> None:
    """Check that the labels of day `ds` are plausible.

    Args:
        settings: The data set.
        store: Its tables, for messages.
        ds: The day.
        clicks: The clicks of the day by domain and status; empty if labels do not come from a click log.
        domains: The rows of the day by domain.

    Raises:
        DataError: No click matched, too many clicks precede their impression, or all rows have the same label.
    """
    counts: dict[str, int] = {}
    for entry in clicks:
        counts[entry.reason] = counts.get(entry.reason, 0) + entry.rows_in
    if counts:
        total, matched, early = sum(counts.values()), counts.get(MATCHED, 0), counts.get(EARLY, 0)
        summary = ", ".join(f"{n:,} {status or 'matched'}" for status, n in sorted(counts.items(), key=lambda c: -c[1]))
        if early > settings.checks.max_early_clicks * (matched + early):
            raise DataError(
                f"logs.clicks: {early:,} of the {total:,} clicks of {ds} come before their impression ({summary}); "
                "set `zone` of logs.clicks.time or logs.impressions.time (checks.max_early_clicks: "
                f"{settings.checks.max_early_clicks:.0%})"
            )
        if not matched:
            raise DataError(
                f"logs.clicks: none of the {total:,} clicks of {ds} matched an impression ({summary}); check that "
                "logs.clicks.impression and logs.impressions.id contain the same ids"
            )
    found = list(domains)
    rows, clicked = sum(d.rows for d in found), sum(d.clicked for d in found)
    if clicked in (0, rows) and not settings.checks.one_class:
        label = "1 (clicked)" if clicked else "0 (not clicked)"
        raise DataError(
            f"{store.warehouse.table('features')}: all {rows:,} rows of {ds} have the label {label}, so no model can "
            "be evaluated on them; check the label in the log, or set checks.one_class to accept such a day"
        )
