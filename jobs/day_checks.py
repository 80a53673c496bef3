"""Checks of a day's logs that stop the night: what is beyond `checks` of the settings cannot be right.

They run after the tables, the quarantine and the ledger are written, so that everything can be looked into.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pyspark.sql import functions as F

from star_ctr.conf.days import BEFORE_FIRST_DAY, NO_DAY, window
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings import Settings
from star_ctr.conf.tables import DATA_RUN
from star_ctr.features.attribution import EARLY, MATCHED
from star_ctr.features.cleaning import DUPLICATE, UNDECLARED_LABEL, UNKNOWN_DAY, UNKNOWN_DOMAIN
from star_ctr.jobs.store import Store, among, quoted

_REMEDIES = {
    UNDECLARED_LABEL: "declare the values in label.positive and label.negative",
    "no usable time": "set unit, format or zone of logs.{log}.time",
    "outside of `earliest` to `latest`": "set unit, or earliest and latest, of logs.{log}.time",
    "used by two different rows": "does the column identify a row?",
    "lost digits": "have the log written with whole numbers or text",
}
_VALUES = 3
"""Values of the most frequent reason that a message shows."""


class Quarantined(NamedTuple):
    """How many of a log's rows of a day were quarantined, and for which reasons: rows by reason."""

    log: str
    day: str
    rows: int
    reasons: dict[str, int]

    @property
    def share(self) -> float:
        """Quarantined rows over all rows of the day."""
        return sum(self.reasons.values()) / max(self.rows, 1)


def check_quarantine(settings: Settings, store: Store, ds: str) -> None:
    """Raise `DataError` where more of a day's rows are quarantined than `checks.max_quarantined`.

    All days of the window count: the model is trained on them.
    """
    limit = settings.checks.max_quarantined
    days = [*window(settings, ds), NO_DAY, BEFORE_FIRST_DAY, UNKNOWN_DAY]
    ledger = store.read("ledger").where(
        (F.col("run_id") == DATA_RUN) & F.col("step").startswith("ingest") & F.expr(among("ds", days))
    )
    entries = [r.asDict() for r in ledger.select("step", "ds", "reason", "rows_in", "rows_out").collect()]
    beyond = [found for found in quarantined_days(entries) if found.share > limit]
    if not beyond:
        return
    worst = max(beyond, key=lambda q: (q.share, q.day))
    reason = max(worst.reasons, key=lambda r: worst.reasons[r])
    values = _values_of(store, worst, reason)
    shown = f" (its values: {', '.join(f'`{v}`' for v in values)})" if values else ""
    remedy = next((text.format(log=worst.log) for part, text in _REMEDIES.items() if part in reason), "")
    more = f"; so are {len(beyond) - 1} more days" if len(beyond) > 1 else ""
    of_day = f"the {worst.rows:,} rows of {worst.day}" if worst.day != UNKNOWN_DAY else f"all {worst.rows:,} rows"
    raise DataError(
        f"logs.{worst.log}: {worst.share:.0%} of {of_day} are quarantined (checks.max_quarantined: {limit:.0%}), most "
        f"of them for `{reason}`{shown}{more}. {remedy + '. ' if remedy else ''}See the table `quarantine`: "
        f"star-ctr tables --show quarantine --where \"log = '{worst.log}'\""
    )


def quarantined_days(entries: Iterable[Mapping[str, Any]]) -> list[Quarantined]:
    """What the ledger says of each log and day: quarantined rows by reason, without duplicates and dropped domains.

    Rows whose time cannot be read belong to no day; they count against all rows that were read with them.
    """
    rows: dict[tuple[str, str], int] = {}
    reasons: dict[tuple[str, str], dict[str, int]] = {}
    for entry in entries:
        log = entry["step"].partition(".")[2] or "impressions"
        key = (log, entry["ds"])
        rows[key] = rows.get(key, 0) + entry["rows_in"]
        why = entry["reason"]
        if why and why != DUPLICATE and not why.startswith(UNKNOWN_DOMAIN):
            of_day = reasons.setdefault(key, {})
            of_day[why] = of_day.get(why, 0) + entry["rows_in"] - entry["rows_out"]
    totals = {log: sum(n for (other, _), n in rows.items() if other == log) for log, _ in rows}
    return [
        Quarantined(log, day, totals[log] if day == UNKNOWN_DAY else rows[log, day], of_day)
        for (log, day), of_day in sorted(reasons.items())
    ]


def _values_of(store: Store, found: Quarantined, reason: str) -> list[str]:
    """The most frequent values of the column that a reason names, in the quarantined rows."""
    column = reason.partition(":")[0].replace("'", "\\'")
    rows = store.read("quarantine").where(
        f"log = '{found.log}' AND ds = {quoted(found.day)} AND reason = {quoted(reason)}"
    )
    value = F.coalesce(F.get_json_object("row", f"$['{column}']"), F.lit(""))
    counts = rows.groupBy(value.alias("value")).count().orderBy(F.desc("count"), "value").limit(_VALUES).collect()
    return [r.value[:40] for r in counts] if any(r.value for r in counts) else []


def check_labels(settings: Settings, store: Store, ds: str, clicks: Mapping[str, int] | None) -> None:
    """Raise `DataError` where the labels of day `ds` cannot be right.

    Args:
        settings: The data set.
        store: Its tables; `features` holds the day.
        ds: The day.
        clicks: Of a label from clicks, what became of the day's clicks: rows by fate.

    Raises:
        DataError: No click matched, clicks come before their impressions, or all rows have one label.
    """
    if clicks:
        total, matched, early = sum(clicks.values()), clicks.get(MATCHED, 0), clicks.get(EARLY, 0)
        said = ", ".join(f"{n:,} {fate or 'matched'}" for fate, n in sorted(clicks.items(), key=lambda c: -c[1]))
        if early > settings.checks.max_early_clicks * (matched + early):
            raise DataError(
                f"logs.clicks: {early:,} of the {total:,} clicks of {ds} come before their impression ({said}); "
                "set `zone` of logs.clicks.time or logs.impressions.time (checks.max_early_clicks: "
                f"{settings.checks.max_early_clicks:.0%})"
            )
        if not matched:
            raise DataError(
                f"logs.clicks: none of the {total:,} clicks of {ds} matched an impression ({said}); do "
                "logs.clicks.impression and logs.impressions.id spell the same ids alike?"
            )
    found = store.read("features").where(F.col("ds") == ds).groupBy("label").count().collect()
    if len(found) == 1 and not settings.checks.one_class:
        what = "clicked" if found[0].label else "not clicked"
        raise DataError(
            f"{store.warehouse.table('features')}: all {found[0]['count']:,} rows of {ds} are {what}, so that no model "
            "can be judged on them; look at the label in the log (checks.one_class: true accepts such a day)"
        )
