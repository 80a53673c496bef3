"""Infer the role of each log.

Names are only hints. Where possible, the values decide: whether they refer to another log, are unique, or are binary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from star_ctr.jobs.new_data_set.click_logs import find_clicked, find_clicks
from star_ctr.jobs.new_data_set.column_words import BEHAVIOUR, ID, ITEM, ORDER, USER
from star_ctr.jobs.new_data_set.columns import describe_columns, split_words
from star_ctr.jobs.new_data_set.event_logs import find_events
from star_ctr.jobs.new_data_set.keys import (
    ColumnChoice,
    find_day,
    find_domain,
    find_key,
    find_label,
    find_outcomes,
    find_time,
    format_count,
)
from star_ctr.jobs.new_data_set.log_columns import MIN_NAMED, MIN_SHARED, LogColumns, LogRole, compare_values
from star_ctr.jobs.new_data_set.log_samples import LogSample


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
        events: Further logs that refer to impressions, the largest first. They may also be behaviours or unused.
        unused: Logs that have no role.
        is_click_known: Whether it is known which impressions of the sample were clicked.
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
    clicks: LogRole | None
    behaviours: LogRole | None
    users: LogRole | None
    items: LogRole | None
    events: list[LogRole]
    unused: list[LogColumns]
    is_click_known: bool

    @property
    def others(self) -> dict[str, LogRole]:
        """The logs besides the impressions, by the name of their section."""
        found = {"clicks": self.clicks, "behaviours": self.behaviours, "users": self.users, "items": self.items}
        return {name: role for name, role in found.items() if role is not None}

    @property
    def attributes(self) -> dict[str, LogRole]:
        """The logs of attributes, by the name of their section."""
        return {name: role for name, role in self.others.items() if name in ("users", "items")}

    @property
    def logs(self) -> dict[str, LogColumns]:
        """The logs that have a role, by the name of their section."""
        return {"impressions": self.impressions, **{name: role.log for name, role in self.others.items()}}


def describe_logs(samples: Iterable[LogSample]) -> list[LogColumns]:
    """Return the logs that have rows, with their columns."""
    logs = []
    for sample in samples:
        if len(sample.rows):
            # A comma separates the columns, so it cannot separate decimals as well.
            allow_commas = sample.group.format != "csv" or "separator" in sample.options
            logs.append(LogColumns(sample, describe_columns(sample.rows, allow_commas)))
    return logs


def find_roles(logs: Sequence[LogColumns]) -> Roles | None:
    """Infer the roles of logs.

    Args:
        logs: All logs, from `describe_logs`.

    Returns:
        The roles; None if no log looks like impressions.
    """
    rated = [(rating, log) for log in logs if (rating := _score_impressions(log, logs)) is not None]
    if not rated:
        return None
    impressions = max(rated, key=lambda pair: pair[0])[1]
    left = [log for log in logs if log is not impressions]
    columns = impressions.columns
    user, item, label, time = find_key(columns, USER), find_key(columns, ITEM), find_label(columns), find_time(columns)
    day = ColumnChoice(None) if impressions.sample.group.days else find_day(columns, time)
    clicks = None if label.column else find_clicks(impressions, left)
    left = [log for log in left if clicks is None or log is not clicks.log]
    reference = clicks.columns.pop("id") if clicks else ColumnChoice(None)
    users = _find_attributes(impressions, user, left, USER, ITEM)
    left = [log for log in left if users is None or log is not users.log]
    items = _find_attributes(impressions, item, left, ITEM, USER)
    left = [log for log in left if items is None or log is not items.log]
    events = find_events(impressions, reference, left)
    behaviours = _find_behaviours([log for log in left if set(log.columns) != set(columns)])
    left = [log for log in left if behaviours is None or log is not behaviours.log]
    used = {c.column for c in (user, item, label, time, day, reference) if c.column}
    clicked = find_clicked(impressions, label, clicks, reference)
    outcomes = find_outcomes({n: c for n, c in columns.items() if n not in used}, clicked)
    domain = find_domain({n: c for n, c in columns.items() if n not in used and n not in outcomes}, clicked)
    return Roles(
        impressions, user, item, domain, time, day, reference, label, outcomes, clicks, behaviours, users, items,
        events, left, clicked is not None,
    )  # fmt: skip


def _score_impressions(log: LogColumns, logs: Collection[LogColumns]) -> tuple[bool, int] | None:
    """Return how much a log looks like impressions; None if it has no user, item or time."""
    columns = log.columns
    if not all(choice.column for choice in (find_key(columns, USER), find_key(columns, ITEM), find_time(columns))):
        return None
    has_label = find_label(columns).column is not None
    has_clicks = not has_label and find_clicks(log, [other for other in logs if other is not log]) is not None
    if not (has_label or has_clicks):
        return None
    return find_domain(columns, None).column is not None, log.sample.group.size


def _find_attributes(
    impressions: LogColumns,
    key: ColumnChoice,
    logs: Iterable[LogColumns],
    words: Collection[str],
    others: Collection[str],
) -> LogRole | None:
    """Find a log with one row per key, or one per key and day.

    Args:
        impressions: The impressions.
        key: The column of the impressions that the log refers to.
        logs: The logs.
        words: Words of the names of this kind of key.
        others: Words of the names of the other kind of key.

    Returns:
        The log; None if there is none.
    """
    if key.column is None:
        return None
    best: tuple[tuple[bool, float], LogRole] | None = None
    for log in logs:
        if _has_events(log):
            continue
        file_words = set(split_words(log.sample.group.pattern))
        file_words |= {word.removesuffix("s") for word in file_words}
        for name, column in log.columns.items():
            if column.kind not in ("integer", "text") or set(column.words) & set(others):
                continue
            is_named = name == key.column or bool(set(column.words) & set(words))
            is_named |= set(column.words) <= ID and bool(file_words & set(words))
            shared, _ = compare_values(column, impressions.columns[key.column])
            # Whole numbers of different things are often equal.
            if shared < (MIN_NAMED if is_named else MIN_SHARED) or (column.kind == "integer" and not is_named):
                continue
            day = _find_snapshot_day(log, name)
            rows = log.sample.rows[[name, *([day.column] if day.column else [])]].astype(str)
            rows = rows.assign(_file_day=log.sample.days.astype(str))
            rating = (is_named, shared)
            if not rows.duplicated().any() and (best is None or rating > best[0]):
                reason = f"{shared:.0%} of the sampled ids occur in `impressions.{key.column}`"
                best = (rating, LogRole(log, {"key": ColumnChoice(name, reason), "day": day}))
    return best[1] if best else None


def _find_snapshot_day(log: LogColumns, key: str) -> ColumnChoice:
    """Find the day of a snapshot: a column of days, if the path has none and a key has several rows."""
    if log.sample.group.days or not log.sample.rows[key].duplicated().any():
        return ColumnChoice(None)
    days = [c for c in log.columns.values() if c.kind == "day" and c.missing == 0 and c.distinct > 1]
    if not days:
        return ColumnChoice(None)
    return ColumnChoice(days[0].name, f"{format_count(days[0].distinct, 'day')} in the sample")


def _has_events(log: LogColumns) -> bool:
    """Return whether the rows are events: they have a user and an item."""
    return bool(find_key(log.columns, USER).column and find_key(log.columns, ITEM).column)


def _find_behaviours(logs: Iterable[LogColumns]) -> LogRole | None:
    """Find the largest log of events of users and items."""
    fitting = []
    for log in logs:
        user, item, time = find_key(log.columns, USER), find_key(log.columns, ITEM), find_time(log.columns)
        order = next((c.name for c in log.columns.values() if c.kind == "integer" and set(c.words) & ORDER), None)
        if user.column is None or item.column is None or (time.column is None and order is None):
            continue
        named = [c for c in log.columns.values() if c.kind in ("text", "integer") and set(c.words) & BEHAVIOUR]
        named = [c for c in named if 1 <= c.distinct <= 30]
        behaviour = ColumnChoice(None)
        if named:
            behaviour = ColumnChoice(named[0].name, format_count(named[0].distinct, "behaviour"))
        choices = {"user": user, "item": item, "behaviour": behaviour}
        if time.column:
            choices["time"] = time
        else:
            choices["order"] = ColumnChoice(order, "no timestamp; assumes that larger values are more recent")
        fitting.append((log.sample.group.size, LogRole(log, choices)))
    return max(fitting, key=lambda found: found[0])[1] if fitting else None
