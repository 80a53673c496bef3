"""Infer the role of each log and column.

Names are only hints. Where possible, the values decide: whether they refer to another log, are unique, or are binary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

import pandas as pd

from star_ctr.jobs.new_data_set.column_words import BEHAVIOUR, ITEM, ORDER, USER
from star_ctr.jobs.new_data_set.columns import Column, describe_columns
from star_ctr.jobs.new_data_set.keys import (
    ColumnChoice,
    find_domain,
    find_key,
    find_label,
    find_outcomes,
    find_time,
    format_count,
    get_positive,
)
from star_ctr.jobs.new_data_set.log_samples import LogSample

_MIN_SHARED = 0.3
"""Minimum share of the values of a key that must occur in the log that it refers to."""


class LogColumns(NamedTuple):
    """A log with its columns."""

    sample: LogSample
    columns: dict[str, Column]

    @property
    def n_rows(self) -> int:
        """The number of rows in the sample."""
        return len(self.sample.rows)


class Roles(NamedTuple):
    """What the logs are. A log that was not found is None.

    Attributes:
        impressions: The impressions.
        user, item, domain, time, day, id: The columns of the impressions.
        label: The label column of the impressions; its column is None if labels come from clicks.
        outcomes: The outcomes of the impressions, with the reason.
        clicks: The clicks, with the column that refers to the id of an impression, and the time.
        behaviours: The behaviours, with their user, item, behaviour, and time or order.
        users, items: The attributes, with their key and day.
        unused: Logs that have no role.
    """

    impressions: LogColumns
    user: ColumnChoice
    item: ColumnChoice
    domain: ColumnChoice
    time: ColumnChoice
    day: ColumnChoice
    id: ColumnChoice
    label: ColumnChoice
    outcomes: dict[str, str]
    clicks: tuple[LogColumns, dict[str, ColumnChoice]] | None
    behaviours: tuple[LogColumns, dict[str, ColumnChoice]] | None
    users: tuple[LogColumns, dict[str, ColumnChoice]] | None
    items: tuple[LogColumns, dict[str, ColumnChoice]] | None
    unused: list[LogColumns]


def find_roles(samples: Iterable[LogSample]) -> Roles | None:
    """Find out what each log and column is.

    Args:
        samples: Samples of all logs.

    Returns:
        The roles; None if no log looks like impressions.
    """
    logs = [LogColumns(sample, describe_columns(sample.rows)) for sample in samples if len(sample.rows)]
    rated = [(rating, log) for log in logs if (rating := _score_impressions(log, logs)) is not None]
    if not rated:
        return None
    impressions = max(rated, key=lambda pair: pair[0])[1]
    left = [log for log in logs if log is not impressions]
    columns = impressions.columns
    user, item = find_key(columns, USER), find_key(columns, ITEM)
    label = find_label(columns)
    clicks = None if label.column else _find_clicks(impressions, left)
    left = [log for log in left if clicks is None or log is not clicks[0]]
    time, day = find_time(columns), _find_day(impressions)
    reference = clicks[1].pop("id") if clicks else ColumnChoice(None)
    users = _find_attributes(impressions, user, left, USER)
    left = [log for log in left if users is None or log is not users[0]]
    items = _find_attributes(impressions, item, left, ITEM)
    left = [log for log in left if items is None or log is not items[0]]
    behaviours = _find_behaviours(left)
    left = [log for log in left if behaviours is None or log is not behaviours[0]]
    used = {c.column for c in (user, item, label, time, day, reference) if c.column}
    clicked = _find_clicked(impressions, label, clicks, reference)
    outcomes = find_outcomes({n: c for n, c in columns.items() if n not in used}, clicked)
    domain = find_domain({n: c for n, c in columns.items() if n not in used and n not in outcomes}, clicked)
    return Roles(
        impressions, user, item, domain, time, day, reference, label, outcomes, clicks, behaviours, users, items, left
    )


def _score_impressions(log: LogColumns, logs: Collection[LogColumns]) -> tuple[bool, int] | None:
    """Return how much a log looks like impressions; None if it has no user, item or time."""
    columns = log.columns
    if not all(choice.column for choice in (find_key(columns, USER), find_key(columns, ITEM), find_time(columns))):
        return None
    has_label = find_label(columns).column is not None
    has_clicks = not has_label and _find_clicks(log, [other for other in logs if other is not log]) is not None
    if not (has_label or has_clicks):
        return None
    return find_domain(columns, None).column is not None, log.sample.group.size


def _find_day(log: LogColumns) -> ColumnChoice:
    """Find the column with the day of a row, if the path has none and the column differs from the time."""
    days = [c for c in log.columns.values() if c.kind == "day" and c.missing == 0]
    if log.sample.group.days or not days:
        return ColumnChoice(None)
    return ColumnChoice(
        days[0].name, f"{format_count(days[0].distinct, 'day')} in the sample", tuple(c.name for c in days[1:])
    )


def _find_clicks(
    impressions: LogColumns, logs: Iterable[LogColumns]
) -> tuple[LogColumns, dict[str, ColumnChoice]] | None:
    """Find a log that refers to the unique ids of impressions."""
    ids = {
        name: set(column.values.astype(str))
        for name, column in impressions.columns.items()
        if column.kind in ("integer", "text") and column.missing == 0 and column.distinct == impressions.n_rows > 1
    }
    best = None
    for log in logs:
        time = find_time(log.columns)
        if time.column is None:
            continue
        for name, column in log.columns.items():
            if column.kind not in ("integer", "text") or column.distinct < 0.5 * log.n_rows:
                continue
            values = set(column.values.astype(str))
            for wanted, known in ids.items():
                shared = len(values & known) / max(min(len(values), len(known)), 1)
                if shared >= (0.01 if name == wanted else _MIN_SHARED) and (best is None or shared > best[0]):
                    reason = f"{len(values & known):,} sampled values occur in `impressions.{wanted}`"
                    choices = {
                        "impression": ColumnChoice(name, reason),
                        "time": time,
                        "id": ColumnChoice(wanted, "unique in the sample"),
                    }
                    best = (shared, log, choices)
    return best[1:] if best else None


def _find_attributes(
    impressions: LogColumns, key: ColumnChoice, logs: Iterable[LogColumns], words: Collection[str]
) -> tuple[LogColumns, dict[str, ColumnChoice]] | None:
    """Find a log with one row per key, or one per key and day."""
    if key.column is None:
        return None
    known = set(impressions.columns[key.column].values.astype(str))
    best = None
    for log in logs:
        for name, column in log.columns.items():
            if column.kind not in ("integer", "text"):
                continue
            day = _find_snapshot_day(log, name)
            rows = log.sample.rows[[name, *([day.column] if day.column else [])]].astype(str)
            is_unique = not rows.duplicated().any() or (bool(log.sample.group.days) and column.distinct > 1)
            values = set(column.values.astype(str))
            shared = len(values & known) / max(min(len(values), len(known)), 1)
            is_named = name == key.column or bool(set(column.words) & set(words))
            if is_unique and shared >= (0.01 if is_named else _MIN_SHARED) and not _has_events(log):
                rating = (is_named, shared)
                if best is None or rating > best[0]:
                    reason = f"{shared:.0%} of the sampled ids occur in `impressions.{key.column}`"
                    best = (rating, log, {"key": ColumnChoice(name, reason), "day": day})
    return best[1:] if best else None


def _find_snapshot_day(log: LogColumns, key: str) -> ColumnChoice:
    """Find the day of a snapshot: a column of days, if the path has none and a key has several rows."""
    if log.sample.group.days or not log.sample.rows[key].duplicated().any():
        return ColumnChoice(None)
    days = [c for c in log.columns.values() if c.kind == "day" and c.missing == 0 and c.distinct > 1]
    return (
        ColumnChoice(days[0].name, f"{format_count(days[0].distinct, 'day')} in the sample")
        if days
        else ColumnChoice(None)
    )


def _has_events(log: LogColumns) -> bool:
    """Return whether the rows are events: they have a user and an item."""
    return bool(find_key(log.columns, USER).column and find_key(log.columns, ITEM).column)


def _find_behaviours(logs: Iterable[LogColumns]) -> tuple[LogColumns, dict[str, ColumnChoice]] | None:
    """Find the largest log of events of users and items."""
    fitting = []
    for log in logs:
        user, item, time = find_key(log.columns, USER), find_key(log.columns, ITEM), find_time(log.columns)
        named = [c for c in log.columns.values() if c.kind in ("text", "integer") and 1 <= c.distinct <= 30]
        named = [c for c in named if set(c.words) & BEHAVIOUR]
        order = next((c.name for c in log.columns.values() if c.kind == "integer" and set(c.words) & ORDER), None)
        if user.column is None or item.column is None or (time.column is None and order is None):
            continue
        behaviour = (
            ColumnChoice(named[0].name, format_count(named[0].distinct, "behaviour")) if named else ColumnChoice(None)
        )
        choices = {"user": user, "item": item, "behaviour": behaviour}
        choices |= (
            {"time": time}
            if time.column
            else {"order": ColumnChoice(order, "no timestamp; assumes that larger values are more recent")}
        )
        fitting.append((log.sample.group.size, log, choices))
    return max(fitting, key=lambda found: found[0])[1:] if fitting else None


def _find_clicked(
    log: LogColumns,
    label: ColumnChoice,
    clicks: tuple[LogColumns, dict[str, ColumnChoice]] | None,
    reference: ColumnChoice,
) -> pd.Series | None:
    """Return whether each impression of the sample was clicked; None if the samples do not tell."""
    rows = log.sample.rows
    if label.column:
        return _normalize(rows[label.column]) == str(get_positive(log.columns[label.column]))
    if clicks and reference.column:
        ids = set(clicks[0].columns[str(clicks[1]["impression"].column)].values.astype(str))
        return rows[reference.column].astype(str).isin(ids)
    return None


def _normalize(values: pd.Series) -> pd.Series:
    """Return values as text, like those of a column: True -> true, 1.0 -> 1."""
    return values.map(lambda v: str(v).lower() if isinstance(v, bool) else str(v)).str.removesuffix(".0")
