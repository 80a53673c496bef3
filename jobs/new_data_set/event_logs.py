"""Find logs of events after impressions, besides clicks, such as purchases."""

from __future__ import annotations

import re
from collections.abc import Iterable

from star_ctr.jobs.new_data_set.click_logs import find_reference
from star_ctr.jobs.new_data_set.column_words import BEHAVIOUR, LABEL, matches_words
from star_ctr.jobs.new_data_set.columns import Column, split_words
from star_ctr.jobs.new_data_set.keys import ColumnChoice, find_time, format_count
from star_ctr.jobs.new_data_set.log_columns import LogColumns, LogRole

_MAX_EVENTS = 30
"""A column with more distinct values does not contain the names of events."""

_GENERIC = frozenset({"part", "all", "data", "file", "files", "log", "logs", "export", "c"})
"""Words of paths that do not name a log."""


def find_events(impressions: LogColumns, reference: ColumnChoice, logs: Iterable[LogColumns]) -> list[LogRole]:
    """Find logs that refer to impressions by the same id as the clicks, and whose times are later.

    Args:
        impressions: The impressions.
        reference: The column of the impressions that the clicks refer to.
        logs: The logs that are neither impressions nor clicks.

    Returns:
        The logs with their columns `impression`, `event` and `time`, the largest first.
    """
    if reference.column is None:
        return []
    wanted, found = impressions.columns[reference.column], list[LogRole]()
    for log in logs:
        time = find_time(log.columns)
        if time.column is None or set(log.columns) == set(impressions.columns):
            continue
        columns = [c for c in log.columns.values() if c.name != time.column]
        references = [r for c in columns if (r := find_reference(impressions, wanted, log, c, time))]
        # Whole numbers of different things are often equal.
        references = [r for r in references if r.is_named or log.columns[r.column.column or ""].kind == "text"]
        if not references:
            continue
        impression = max(references, key=lambda r: (r.is_named, r.shared)).column
        role = LogRole(log, {"impression": impression, "event": _find_event(log, impression), "time": time})
        if list_events(role):
            found.append(role)
    return sorted(found, key=lambda role: -role.log.sample.group.size)


def _find_event(log: LogColumns, impression: ColumnChoice) -> ColumnChoice:
    """Find the column with the names of events."""
    for column in log.columns.values():
        is_named = bool(set(column.words) & BEHAVIOUR) and column.name != impression.column
        if is_named and column.kind in ("text", "integer") and 1 <= column.distinct <= _MAX_EVENTS:
            return ColumnChoice(column.name, format_count(column.distinct, "event"))
    return ColumnChoice(None)


def list_events(role: LogRole) -> list[str]:
    """Return the names of the events of a log except clicks, the most frequent first.

    Without a column of names, this is the name of the log's file or folder.
    """
    name = role.columns["event"].column
    if name is None:
        return [name_log(role.log)]
    column: Column = role.log.columns[name]
    counts = column.values.astype(str).value_counts()
    return [str(event) for event in counts.index if not matches_words(split_words(str(event)), LABEL)]


def name_log(log: LogColumns) -> str:
    """Return the part of the path of a log that names it: `purchases/{ds}.csv` and `purchases.csv` -> purchases."""
    for part in reversed(log.sample.group.pattern.split("/")):
        bare = re.sub(r"\w+=.*|\{\w+\}|\[[^\]]*\]|\.\w+", " ", part)
        words = re.findall(r"[a-z][a-z0-9]*", bare.lower())
        if not {word.rstrip("0123456789") for word in words} <= _GENERIC:
            return "_".join(words)
    return "event"
