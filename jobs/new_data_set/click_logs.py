"""Find the log of clicks, and which impressions were clicked."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pandas as pd

from star_ctr.jobs.new_data_set.column_words import ID, IMPRESSION
from star_ctr.jobs.new_data_set.columns import Column, names_clicks
from star_ctr.jobs.new_data_set.keys import ColumnChoice, find_positive, find_time
from star_ctr.jobs.new_data_set.log_columns import MIN_NAMED, MIN_SHARED, LogColumns, LogRole, compare_values
from star_ctr.jobs.new_data_set.log_samples import read_values
from star_ctr.jobs.new_data_set.time_formats import parse_times

_MIN_LATER = 0.9
"""Minimum share of clicks that must be after their impression."""
_MIN_DISTINCT = 0.99
"""Minimum share of distinct values in a column of ids: some logs deliver a few rows twice."""


class Reference(NamedTuple):
    """A column that refers to the id of impressions.

    Attributes:
        column: The column.
        is_named: Whether its name says so.
        shared: The share of values that both columns have.
    """

    column: ColumnChoice
    is_named: bool
    shared: float


def find_clicks(impressions: LogColumns, logs: Iterable[LogColumns]) -> LogRole | None:
    """Find a log that refers to the unique ids of impressions, and whose times are later.

    Args:
        impressions: The impressions.
        logs: The other logs.

    Returns:
        The log, with its columns `impression` and `time` and the column `id` of the impressions; None if there is none.
    """
    ids = list_ids(impressions)
    best: tuple[tuple[bool, bool, float], LogRole] | None = None
    for log in logs:
        time = find_time(log.columns)
        if time.column is None:
            continue
        # Other events, such as purchases, refer to impressions, too.
        is_called_click = names_clicks(log.sample.group.pattern)
        for column in log.columns.values():
            if column.distinct < 0.5 * log.n_rows:
                continue
            for wanted in ids:
                found = find_reference(impressions, wanted, log, column, time)
                if found is None:
                    continue
                rating = (found.is_named, is_called_click, found.shared)
                if best is None or rating > best[0]:
                    choices = {"impression": found.column, "time": time}
                    choices["id"] = ColumnChoice(wanted.name, "unique in the sample")
                    best = (rating, LogRole(log, choices))
    return best[1] if best else None


def list_ids(impressions: LogColumns) -> list[Column]:
    """Return the columns of the impressions whose values are unique, up to a few rows that are delivered twice."""
    return [
        column
        for column in impressions.columns.values()
        if column.kind in ("integer", "text")
        and column.missing == 0
        and column.distinct >= _MIN_DISTINCT * impressions.n_rows > 1
    ]


def shares_values(column: Column, wanted: Column) -> tuple[bool, bool, float, int]:
    """Return whether a column has values of an id of impressions, whether its name says so, and how many it has.

    Args:
        column: The column of another log.
        wanted: The id.

    Returns:
        Whether the column refers to the id, whether its name says so, and the share and number of common values.
    """
    is_named = bool(set(column.words) & IMPRESSION) or (column.name == wanted.name and not set(column.words) <= ID)
    if column.kind not in ("integer", "text"):
        return False, is_named, 0.0, 0
    shared, n = compare_values(column, wanted)
    return shared >= (MIN_NAMED if is_named else MIN_SHARED), is_named, shared, n


def find_reference(
    impressions: LogColumns, wanted: Column, log: LogColumns, column: Column, time: ColumnChoice
) -> Reference | None:
    """Return the reference of a column to the id of impressions.

    Args:
        impressions: The impressions.
        wanted: Their id.
        log: Another log.
        column: A column of this log.
        time: The time of this log.

    Returns:
        The reference; None if the column does not refer to the id, or if the rows of the log are not later.
    """
    refers, is_named, shared, n = shares_values(column, wanted)
    if not refers or not _is_later(impressions, wanted, log, column, time):
        return None
    reason = f"{n:,} sampled values occur in `impressions.{wanted.name}`"
    return Reference(ColumnChoice(column.name, reason), is_named, shared)


def _is_later(impressions: LogColumns, key: Column, clicks: LogColumns, reference: Column, time: ColumnChoice) -> bool:
    """Return whether the clicks are after the impressions that they refer to, up to a day for an unknown time zone."""
    shown_at = impressions.columns[str(find_time(impressions.columns).column)]
    clicked_at = clicks.columns[str(time.column)]
    assert shown_at.time is not None
    assert clicked_at.time is not None
    shown = pd.DataFrame({"id": key.values.astype(str), "shown": parse_times(shown_at.values, shown_at.time)})
    clicked = {"id": reference.values.astype(str), "clicked": parse_times(clicked_at.values, clicked_at.time)}
    both = shown.merge(pd.DataFrame(clicked), on="id")
    return bool((both["clicked"] >= both["shown"] - pd.Timedelta(days=1)).mean() >= _MIN_LATER)


def find_clicked(
    log: LogColumns, label: ColumnChoice, clicks: LogRole | None, reference: ColumnChoice
) -> pd.Series | None:
    """Find out which impressions of the sample were clicked.

    Args:
        log: The impressions.
        label: The label column of the impressions.
        clicks: The clicks.
        reference: The column of the impressions that the clicks refer to.

    Returns:
        Whether each impression was clicked; None if this is not known.

    Raises:
        DataError: The clicks cannot be read.
    """
    rows = log.sample.rows
    if label.column:
        positive = find_positive(log.columns[label.column])
        return positive.reindex(rows.index, fill_value=False)
    if clicks is None or reference.column is None:
        return None
    days = {day for day in log.sample.days.unique() if day is not None}
    # All clicks on these impressions are needed, and not a sample of the clicks.
    ids = read_values(clicks.log.sample, str(clicks.columns["impression"].column), _add_next_days(sorted(days)) or None)
    if ids is None:
        return None
    return rows[reference.column].astype(str).isin(set(ids))


def _add_next_days(days: Sequence[str]) -> set[str]:
    """Return days and those after them, because a click may follow after midnight."""
    following = ((dt.date.fromisoformat(day) + dt.timedelta(days=1)).isoformat() for day in days)
    return {*days, *following}
