"""Describe a sample of a log: its columns, what would stop a night, and what is worth a look. Needs no Spark."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from star_ctr.conf.settings.features import Categorical, Numeric, list_read_columns
from star_ctr.conf.settings.label import LabelColumn
from star_ctr.conf.settings.root import Settings
from star_ctr.features.cleaning.clean_log import NOT_QUARANTINED, UNKNOWN_DOMAIN
from star_ctr.features.cleaning.log_columns import list_required_columns
from star_ctr.jobs.quality.day_checks import find_remedy
from star_ctr.jobs.quality.sample import NUMBER_PREFIX, Sample

_EXAMPLES = 3
_EXAMPLE_LENGTH = 24
_MIN_CHANGE_ROWS = 50
"""Days with fewer rows are not compared."""
_MIN_HOUR_ROWS = 20
"""Hours with fewer rows on the days before may have none."""
_NULL_CHANGE = 0.1
_OTHER_DAYS = 0.2
"""Minimum share of times on another day than that of their file to report."""
_VOLUME_CHANGE = 3.0


@dataclass
class LogReport:
    """What a sample of a log shows.

    Attributes:
        log: The name of the log.
        path: The glob of its files, or its tables.
        files: The number of its files.
        days: The first and the last day of the sample's rows.
        rows: The number of rows of the sample.
        is_whole: Whether the sample contains all rows of its days.
        columns: One entry per column: column, type, use, nulls (a share), distinct, examples.
        problems: What would stop a night, with remedies.
        warnings: What is worth a look.
        domains: Rows and click rate by domain; only for impressions.
    """

    log: str
    path: str
    files: int = 0
    days: list[str] = field(default_factory=list)
    rows: int = 0
    is_whole: bool = True
    columns: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    domains: list[dict[str, Any]] = field(default_factory=list)


def describe_sample(settings: Settings, name: str, sample: Sample, report: LogReport) -> None:
    """Fill the report of a log from its sample.

    Args:
        settings: The settings of the data set.
        name: The log.
        sample: The sample.
        report: The report; only its lists and numbers are filled.
    """
    rows = sample.rows
    report.rows, report.is_whole = len(rows), sample.is_whole
    good = rows.filter(pc.is_null(rows["reason"]))
    report.days = sorted(set(good["ds"].to_pylist()))
    report.columns = list(_describe_columns(settings, name, sample))
    problems, warnings = _describe_reasons(settings, name, rows)
    report.problems += problems
    report.warnings += warnings
    report.problems += _describe_lists(settings, name, sample)
    for column, feature in _list_numeric_features(settings, name).items():
        report.problems += _describe_unparsable(settings, feature, column, name, sample, good)
    if name == "impressions":
        report.domains = _describe_domains(good)
        report.problems += _describe_labels(settings, good)
    if "ts" in rows.column_names and len(good):
        report.warnings += _describe_hours(good, report.days, sample.is_whole)
        report.warnings += _describe_other_days(settings, name, good)
    if sample.is_whole:
        report.warnings += _describe_changes(good, sample)


def _describe_columns(settings: Settings, name: str, sample: Sample) -> Iterator[dict[str, Any]]:
    """Yield an entry per raw column."""
    uses: dict[str, list[str]] = {}
    for key, column in list_required_columns(settings, name).items():
        uses.setdefault(column, []).append(key.partition(".")[0])
    for feature in settings.features:
        for read in list_read_columns(feature):
            if read.table == name:
                uses.setdefault(read.column, []).append(f"feature {feature.name}")
    for column, kind in sample.types.items():
        entry: dict[str, Any] = {"column": column, "type": kind, "use": ", ".join(dict.fromkeys(uses.get(column, [])))}
        if (stored := sample.stored.get(column)) and stored in sample.rows.column_names:
            values = sample.rows[stored]
            shown = values if stored != "ts" else values.cast(pa.timestamp("us"), safe=False)
            plain = not pa.types.is_nested(values.type)
            counts = pc.value_counts(values.drop_null()) if plain and len(values) else None
            entry["nulls"] = values.null_count / max(len(values), 1)
            entry["distinct"] = len(counts) if counts is not None else None
            entry["examples"] = _get_examples(shown)
        yield entry


def _get_examples(values: pa.ChunkedArray) -> list[str]:
    """Return the first distinct values as text."""
    found: list[str] = []
    for value in values.drop_null().slice(0, 200).to_pylist():
        text = value.isoformat(sep=" ") if isinstance(value, dt.datetime) else str(value)
        text = text.replace("\n", " ")
        text = text if len(text) <= _EXAMPLE_LENGTH else text[: _EXAMPLE_LENGTH - 1] + "…"
        if text not in found:
            found.append(text)
        if len(found) == _EXAMPLES:
            break
    return found


def _describe_reasons(settings: Settings, name: str, rows: pa.Table) -> tuple[list[str], list[str]]:
    """Return problems (more than `checks.max_quarantined`) and warnings about quarantined rows and duplicates."""
    problems: list[str] = []
    warnings: list[str] = []
    counts = {r["values"]: r["counts"] for r in pc.value_counts(rows["reason"].drop_null()).to_pylist()}
    quarantined = sum(n for r, n in counts.items() if r not in NOT_QUARANTINED and not r.startswith(UNKNOWN_DOMAIN))
    limit = settings.checks.max_quarantined
    for reason, n in sorted(counts.items(), key=lambda item: -item[1]):
        text = f"{n:,} of {len(rows):,} rows: {reason}"
        if reason in NOT_QUARANTINED or reason.startswith(UNKNOWN_DOMAIN):
            warnings.append(text)
            continue
        remedy = find_remedy(reason, name)
        values = _find_values(rows, reason)
        text += f" (values: {', '.join(f'`{v}`' for v in values)})" if values else ""
        text += f"; {remedy}" if remedy else ""
        (problems if quarantined > limit * len(rows) else warnings).append(text)
    known = settings.domains.known
    dropped = sum(n for reason, n in counts.items() if reason.startswith(UNKNOWN_DOMAIN))
    if known and dropped == len(rows):
        problems.append(f"all domains are unknown; check domains.known ({', '.join(known)})")
    return problems, warnings


def _find_values(rows: pa.Table, reason: str) -> list[str]:
    """Return examples of the column that the reason names, from the raw rows."""
    column, found = reason.partition(":")[0], list[str]()
    for text in rows.filter(pc.equal(rows["reason"], reason))["raw"].drop_null().slice(0, 50).to_pylist():
        try:
            value = json.loads(text).get(column)
        except (ValueError, AttributeError):
            return []
        shown = "" if value is None else str(value)[:_EXAMPLE_LENGTH]
        if shown and shown not in found:
            found.append(shown)
    return found[:_EXAMPLES]


def _describe_lists(settings: Settings, name: str, sample: Sample) -> Iterator[str]:
    """Yield a problem for each feature that needs single values but reads a column of lists."""
    for feature in settings.features:
        if isinstance(feature, Categorical) and feature.splitter:
            continue
        for read in list_read_columns(feature):
            if read.table == name and sample.types.get(read.column, "").startswith("array"):
                remedy = (
                    "set `multiple: true`" if isinstance(feature, Categorical) else "choose a column of single values"
                )
                yield f"features.{feature.name}: `{read.column}` holds lists; {remedy}"


def _list_numeric_features(settings: Settings, name: str) -> dict[str, str]:
    """Return the numeric features of a log by the column that they read."""
    return {f.column.column: f.name for f in settings.select_features(Numeric) if f.column.table == name}


def _describe_unparsable(
    settings: Settings, feature: str, column: str, name: str, sample: Sample, good: pa.Table
) -> Iterator[str]:
    """Yield a problem if too many values of a numeric feature are not numbers."""
    stored = sample.stored.get(column)
    if stored is None or stored not in good.column_names or NUMBER_PREFIX + column not in good.column_names:
        return
    values, numbers = good[stored], good[NUMBER_PREFIX + column]
    bad = values.filter(pc.and_(pc.is_valid(values), pc.is_null(numbers)))
    given = len(values) - values.null_count
    if given and len(bad) > settings.checks.max_unparsable * given:
        yield (
            f"features.{feature}: {len(bad) / given:.0%} of the values of `{column}` (type {sample.types[column]}) are "
            f"not numbers, such as `{str(bad[0].as_py())[:_EXAMPLE_LENGTH]}`; set logs.{name}.decimal or "
            f"logs.{name}.null_values, or make the feature categorical"
        )


def _describe_domains(good: pa.Table) -> list[dict[str, Any]]:
    """Return rows and click rate by domain, largest first; the rate is None if the log has no label."""
    has_label = "label" in good.column_names
    columns = [("domain", "count"), *([("label", "mean")] if has_label else [])]
    found = good.group_by("domain").aggregate(columns).to_pylist()
    rows = [{"domain": r["domain"], "rows": r["domain_count"], "click rate": r.get("label_mean")} for r in found]
    return sorted(rows, key=lambda r: -r["rows"])


def _describe_labels(settings: Settings, good: pa.Table) -> Iterator[str]:
    """Yield a problem if all labels of the sample are the same."""
    if not isinstance(settings.label, LabelColumn) or not len(good) or settings.checks.one_class:
        return
    if len(pc.unique(good["label"])) == 1:
        label = "1 (clicked)" if good["label"][0].as_py() else "0 (not clicked)"
        yield (
            f"label: all rows have the label {label}; check label.column (`{settings.label.column}`), label.positive "
            "and label.negative"
        )


def _describe_other_days(settings: Settings, name: str, good: pa.Table) -> Iterator[str]:
    """Yield a warning if many times are not on the day in the path of their file."""
    zones = pa.types.is_integer(good["ts"].type) and not re.match(r"(UTC|GMT|UT)?[+-]", settings.zone)
    if not settings.logs.get_declared()[name].has_day or not zones:
        return
    local = pc.strftime(good["ts"].cast(pa.timestamp("us", "UTC")).cast(pa.timestamp("us", settings.zone)), "%Y-%m-%d")
    is_other = pc.not_equal(local, good["ds"])
    share = pc.mean(is_other.cast(pa.float64())).as_py()
    if share and share > _OTHER_DAYS:
        row = pc.index(is_other, value=True).as_py()
        yield (
            f"{share:.0%} of the times are not on the day in the path of their file (for example {local[row]} instead "
            f"of {good['ds'][row]}); check logs.{name}.time.zone, and `zone`"
        )


def _describe_hours(good: pa.Table, days: list[str], is_whole: bool) -> Iterator[str]:
    """Yield a warning for hours without rows on a day on which other days of the sample have rows."""
    if not is_whole or len(days) < 2:
        return
    hours = pc.divide(good["ts"], 3_600_000_000).to_numpy() % 24
    counts = {day: Counter[int]() for day in days}
    for day, hour in zip(good["ds"].to_pylist(), hours, strict=True):
        counts[day][int(hour)] += 1
    *earlier, newest = (counts[day] for day in days)
    missing = [h for h in range(24) if not newest[h] and all(day[h] >= _MIN_HOUR_ROWS for day in earlier)]
    if missing:
        yield f"{days[-1]}: hours (UTC) without rows, but with rows on earlier days: {len(missing)}"


def _describe_changes(good: pa.Table, sample: Sample) -> Iterator[str]:
    """Yield what differs on the newest day from the days before."""
    days = sorted(set(good["ds"].to_pylist()))
    if len(days) < 2:
        return
    newest = good.filter(pc.equal(good["ds"], days[-1]))
    before = good.filter(pc.not_equal(good["ds"], days[-1]))
    usual = len(before) / (len(days) - 1)
    if usual >= _MIN_CHANGE_ROWS and not usual / _VOLUME_CHANGE < len(newest) < usual * _VOLUME_CHANGE:
        yield f"{days[-1]}: {len(newest):,} rows; earlier days have {usual:,.0f} on average"
    if min(len(newest), len(before)) < _MIN_CHANGE_ROWS:
        return
    for column, stored in sample.stored.items():
        if stored in good.column_names and stored != "ts":
            now = newest[stored].null_count / len(newest)
            then = before[stored].null_count / len(before)
            if abs(now - then) > _NULL_CHANGE:
                yield f"{days[-1]}: {now:.0%} of the values of `{column}` are missing; on earlier days {then:.0%}"
    if "domain" in good.column_names:
        yield from _describe_domain_changes(newest, before, days)


def _describe_domain_changes(newest: pa.Table, before: pa.Table, days: list[str]) -> Iterator[str]:
    now, then = _count(newest), _count(before)
    for domain in sorted({*now, *then}, key=str):
        usual = then.get(domain, 0) / (len(days) - 1)
        rows = now.get(domain, 0)
        if usual >= _MIN_CHANGE_ROWS and not usual / _VOLUME_CHANGE < rows < usual * _VOLUME_CHANGE:
            yield f"{days[-1]}: {rows:,} rows of domain `{domain}`; earlier days have {usual:,.0f} on average"
        elif not usual and rows >= _MIN_CHANGE_ROWS:
            yield f"{days[-1]}: {rows:,} rows of the new domain `{domain}`"


def _count(rows: pa.Table) -> Mapping[str, int]:
    return {r["values"]: r["counts"] for r in pc.value_counts(rows["domain"]).to_pylist()}
