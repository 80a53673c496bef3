"""Describe a sample of a log: its columns, what would stop a night, and what is worth a look. Needs no Spark."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from star_ctr.conf.settings.features import Categorical, Numeric, Vector, list_read_columns
from star_ctr.conf.settings.label import LabelColumn
from star_ctr.conf.settings.root import Settings
from star_ctr.features.cleaning.clean_log import LEFT_OUT_BY_WHERE, NOT_QUARANTINED, UNKNOWN_DOMAIN
from star_ctr.features.cleaning.log_columns import list_required_columns
from star_ctr.jobs.quality.day_checks import find_remedy
from star_ctr.jobs.quality.sample import NUMBER_PREFIX, Sample
from star_ctr.jobs.quality.sample_days import describe_changes, describe_hours, describe_other_days

_EXAMPLES = 3
_EXAMPLE_LENGTH = 30
_MIN_LIST_ROWS = 20
_LISTS = 0.2
"""Minimum share of items that contain another separator to report."""
_MIN_EFFECTIVE = 0.1
"""A smaller effective share of rows, (sum of weights)^2 / (sum of squared weights) / rows, leads to a warning."""
_LIST_SEPARATORS = (",", ";", "|", " ", "\t")


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
        notes: What the settings leave out.
        domains: Rows and click rate by domain; only for impressions.
        training_share: The share of the valid rows with a weight other than 0.
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
    notes: list[str] = field(default_factory=list)
    domains: list[dict[str, Any]] = field(default_factory=list)
    training_share: float = 1.0


def describe_sample(settings: Settings, name: str, sample: Sample, report: LogReport, has_all_files: bool) -> None:
    """Fill the report of a log from its sample. Rows that `where` leaves out are only counted.

    Args:
        settings: The settings of the data set.
        name: The log.
        sample: The sample.
        report: The report; only its lists and numbers are filled.
        has_all_files: Whether all files of the log can be read. If not, days are not compared.
    """
    total = len(sample.rows)
    sample = sample._replace(rows=sample.rows.filter(_is_not(sample.rows["reason"], LEFT_OUT_BY_WHERE)))
    rows = sample.rows
    if len(rows) < total:
        report.notes.append(f"{total - len(rows):,} of {total:,} rows are {LEFT_OUT_BY_WHERE}")
    report.rows, report.is_whole = len(rows), sample.is_whole
    good = rows.filter(pc.is_null(rows["reason"]))
    report.days = sorted(set(good["ds"].to_pylist()))
    report.columns = list(_describe_columns(settings, name, sample))
    problems, warnings = _describe_reasons(settings, name, rows)
    report.problems += problems
    report.warnings += warnings
    report.problems += _describe_lists(settings, name, sample)
    for feature in settings.features:
        if isinstance(feature, Numeric | Vector) and feature.column.table == name:
            _describe_unparsable(settings, feature, sample, good, report)
    if name == "impressions":
        report.domains = _describe_domains(good)
        report.problems += _describe_labels(settings, good)
        report.problems += _describe_single_items(settings, good)
        _describe_weights(settings.logs.impressions.weight, good, report)
    if "ts" in rows.column_names and len(good):
        report.warnings += describe_hours(good, report.days, sample.is_whole and has_all_files)
        report.warnings += describe_other_days(settings, name, good)
    if sample.is_whole and has_all_files:
        report.warnings += describe_changes(good, sample)


def _is_not(reasons: pa.ChunkedArray, reason: str) -> pa.ChunkedArray:
    return pc.fill_null(pc.not_equal(reasons, reason), fill_value=True)


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
        text = f"{value.isoformat(sep=' ')} UTC" if isinstance(value, dt.datetime) else str(value)
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
        if isinstance(feature, Vector) or (isinstance(feature, Categorical) and feature.splitter):
            continue
        for read in list_read_columns(feature):
            if read.table == name and sample.types.get(read.column, "").startswith("array"):
                can_split = isinstance(feature, Categorical) and len(feature.columns) == 1
                remedy = "set `multiple: true`" if can_split else "choose a column of single values"
                yield f"features.{feature.name}: `{read.column}` holds lists; {remedy}"


def _describe_unparsable(
    settings: Settings, feature: Numeric | Vector, sample: Sample, good: pa.Table, report: LogReport
) -> None:
    """Add a problem if too many values of a numeric feature are not numbers, or of a vector not such vectors.

    With fewer such values, add a warning.
    """
    column, what = feature.column.column, "numbers"
    remedy = f"set logs.{report.log}.decimal or logs.{report.log}.null_values, or make the feature categorical"
    if isinstance(feature, Vector):
        what = f"vectors of {feature.length} numbers"
        of_text = "" if sample.types.get(column, "").startswith("array") else f" and features.{feature.name}.separator"
        remedy = f"set features.{feature.name}.length{of_text} as in the log"
    stored = sample.stored.get(column)
    if stored is None or stored not in good.column_names or NUMBER_PREFIX + column not in good.column_names:
        return
    values, numbers = good[stored], good[NUMBER_PREFIX + column]
    bad = values.filter(pc.and_(pc.is_valid(values), pc.is_null(numbers)))
    given = len(values) - values.null_count
    if not len(bad):
        return
    example = f"`{str(bad[0].as_py())[: 2 * _EXAMPLE_LENGTH]}`"
    if len(bad) > settings.checks.max_unparsable * given:
        report.problems.append(
            f"features.{feature.name}: {len(bad) / given:.0%} of the values of `{column}` (type "
            f"{sample.types[column]}) are not {what}, such as {example}; {remedy}"
        )
    else:
        report.warnings.append(
            f"features.{feature.name}: {len(bad):,} of {given:,} values of `{column}` are not {what} (example: "
            f"{example}), so they count as missing"
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


def _describe_weights(column: str | None, good: pa.Table, report: LogReport) -> None:
    """Add a summary of the weights to the report, and a warning if they are very unequal."""
    name = NUMBER_PREFIX + (column or "")
    if column is None or not len(good) or name not in good.column_names:
        return
    weights = good[name].to_numpy()
    positive, total = int((weights > 0).sum()), float(weights.sum())
    report.training_share = positive / len(weights)
    if not positive:
        report.problems.append(f"logs.impressions.weight: all values of `{column}` are 0, so no row is trained on")
        return
    report.notes.append(
        f"weight (`{column}`): mean {total / len(weights):.4g}, maximum {weights.max():.4g}; "
        f"{1 - report.training_share:.1%} of the rows have weight 0 and are not trained on"
    )
    effective = total**2 / float(weights @ weights)
    if effective < _MIN_EFFECTIVE * positive:
        report.warnings.append(
            f"the weights (`{column}`) are very unequal: {positive:,} rows count as much as {effective:,.0f} rows of "
            f"equal weight, and the largest weight is {weights.max() / total:.1%} of the total; limit the weights in "
            "logs.impressions.columns, for example with `least`"
        )


def _describe_single_items(settings: Settings, good: pa.Table) -> Iterator[str]:
    """Yield a problem if no list to explode is split, but the items look like lists."""
    explode = settings.logs.impressions.explode
    if explode is None or not explode.separator or len(good) < _MIN_LIST_ROWS:
        return
    for separator in (s for s in _LIST_SEPARATORS if s != explode.separator):
        shares = pc.mean(pc.match_substring(good["item_id"], separator).cast(pa.float64())).as_py()
        if shares > _LISTS:
            example = good["item_id"].filter(pc.match_substring(good["item_id"], separator))[0].as_py()
            yield (
                f"logs.impressions.explode.separator: {shares:.0%} of the items contain `{separator}`, such as "
                f"`{example[:_EXAMPLE_LENGTH]}`; correct the separator (`{explode.separator}`)"
            )
            return
