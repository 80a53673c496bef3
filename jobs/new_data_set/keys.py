"""Find the keys of a log: its user, item, time, day, label, domain and outcomes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import pandas as pd
from scipy.stats import mannwhitneyu

from star_ctr.jobs.new_data_set.column_words import (
    CONTENT_TIME,
    DOMAIN,
    ID,
    LABEL,
    NOT_DOMAIN,
    OUTCOME,
    TIME,
    matches_words,
)
from star_ctr.jobs.new_data_set.columns import Column
from star_ctr.jobs.new_data_set.time_formats import parse_times

_POSITIVE = ("1", "true", "True", "TRUE", "yes", "Y", "y", "t")
_MAX_LEVELS = 5
"""Maximum number of distinct values of a label."""
_MAX_DOMAINS = 200
_MAX_MISSING = 0.05
_MIN_ROWS = 100
"""A click rate is shown only for domains with at least this number of rows in the sample."""
_MIN_AUC = 0.85
"""A number that alone predicts clicks with this AUC is probably an outcome."""
_MIN_SAME_DAY = 0.95


class ColumnChoice(NamedTuple):
    """A column that was chosen for a key of the YAML file.

    Attributes:
        column: The name of the column; None if no column fits.
        reason: Why it was chosen.
        others: Other columns that fit.
    """

    column: str | None
    reason: str = ""
    others: tuple[str, ...] = ()


def find_key(columns: Mapping[str, Column], words: Collection[str]) -> ColumnChoice:
    """Find the id of a user or item. Its name has one of `words`; any other word needs one of `ID` beside it."""
    fitting = []
    for name, column in columns.items():
        found = [word for word in column.words if word in words]
        rest = [word for word in column.words if word not in words and word not in ID]
        is_id = not rest or (len(rest) == 1 and bool(set(column.words) & ID))
        if found and is_id and column.kind in ("integer", "text") and column.distinct > 1:
            fitting.append((len(rest), -column.distinct, name))
    names = [name for *_, name in sorted(fitting)]
    if not names:
        return ColumnChoice(None)
    # An id has far more values than, for example, the kind of a device.
    names = names[:1] + [n for n in names[1:] if columns[n].distinct > 0.05 * columns[names[0]].distinct]
    return ColumnChoice(names[0], f"{format_count(columns[names[0]].distinct, 'id')} in the sample", tuple(names[1:4]))


def find_time(columns: Mapping[str, Column]) -> ColumnChoice:
    """Find the time of a row: a time of day that is (almost) never missing, and not that of something else."""
    times = [c for c in columns.values() if c.kind == "time" and c.missing <= _MAX_MISSING]
    times.sort(key=lambda c: (matches_words(c.words, CONTENT_TIME), not set(c.words) & TIME, -c.distinct))
    if not times:
        return ColumnChoice(None)
    reason = format_count(times[0].distinct, "distinct time")
    return ColumnChoice(times[0].name, reason, tuple(c.name for c in times[1:3]))


def find_day(columns: Mapping[str, Column], time: ColumnChoice) -> ColumnChoice:
    """Find the day of a row: a date that is nearly always that of its time, or one day before or after it."""
    if time.column is None:
        return ColumnChoice(None)
    own = columns[time.column]
    assert own.time is not None
    times = parse_times(own.values, own.time)
    for name, column in columns.items():
        if column.kind != "day" or column.missing > 0 or column.time is None:
            continue
        # The middle of a day is 36 hours, and the offset of a zone, from the times of the days next to it.
        distance = (parse_times(column.values, column.time) + pd.Timedelta(hours=12) - times).abs()
        same = float((distance <= pd.Timedelta(hours=50)).mean())
        if same >= _MIN_SAME_DAY:
            return ColumnChoice(name, f"{same:.1%} of the times are on this day or next to it")
    return ColumnChoice(None)


def find_label(columns: Mapping[str, Column]) -> ColumnChoice:
    """Find a column that says whether the impression was clicked."""
    fitting = [c for c in columns.values() if set(c.words) & LABEL and 2 <= c.distinct <= _MAX_LEVELS]
    fitting = [c for c in fitting if c.kind in ("integer", "text") and get_label_values(c) is not None]
    fitting.sort(key=lambda c: (not set(c.words) & (LABEL - {"label"}), len(c.words), c.distinct, c.name))
    if not fitting:
        return ColumnChoice(None)
    share = find_positive(fitting[0]).mean()
    return ColumnChoice(fitting[0].name, f"click rate {share:.1%} in the sample", tuple(c.name for c in fitting[1:]))


def get_label_values(column: Column) -> tuple[list[str], list[str]] | None:
    """Return the values of a label that mean a click, and those that do not; None if this is not clear."""
    values = sorted({str(v) for v in column.values.unique()})
    if column.kind == "integer" and all(v.lstrip("-").isdigit() for v in values):
        # A number of clicks.
        positive = [v for v in values if int(v) > 0]
    else:
        positive = [v for v in values if v in _POSITIVE] if len(values) == 2 else []
    return (positive, [v for v in values if v not in positive]) if positive and len(positive) < len(values) else None


def find_positive(column: Column) -> pd.Series:
    """Return whether each value of a label means a click."""
    found = get_label_values(column)
    assert found is not None
    return column.values.astype(str).isin(found[0])


def find_outcomes(columns: Mapping[str, Column], clicked: pd.Series | None) -> dict[str, str]:
    """Find the outcomes: columns named like one, or whose values are known only for clicked rows.

    Args:
        columns: The columns of the impressions that are not keys.
        clicked: Whether each row was clicked; None if this is not known.

    Returns:
        The reason for each outcome.
    """
    found = {}
    for name, column in columns.items():
        if column.kind in ("integer", "number", "text") and matches_words(column.words, OUTCOME):
            found[name] = "chosen by name"
        elif clicked is not None and 0 < clicked.mean() < 0.9 and (reason := _explain_outcome(column, clicked)):
            found[name] = reason
    return found


def _explain_outcome(column: Column, clicked: pd.Series) -> str | None:
    """Return why a column is an outcome by its values; None if it may not be one."""
    if column.kind in ("empty", "struct", "list", "vector"):
        return None
    texts = column.values.astype(str)
    is_other = texts != texts.mode().iloc[0]
    for rows, what in ((is_other[is_other].index, "rows with an unusual value"), (texts.index, "rows with a value")):
        own = clicked.loc[rows]
        if 20 <= len(own) < 0.9 * len(clicked) and own.mean() > 0.97 and len(own) > 0.05 * clicked.sum():
            return f"{own.mean():.0%} of the {what} are clicked"
    if column.kind in ("integer", "number"):
        auc = _compute_auc(column.values.astype(float), clicked.loc[column.values.index])
        if max(auc, 1 - auc) > _MIN_AUC:
            return f"predicts clicks with an AUC of {auc:.2f}"
    return None


def _compute_auc(values: pd.Series, clicked: pd.Series) -> float:
    """Return the AUC of numbers; 0.5 if there is one class only."""
    positive, negative = values[clicked], values[~clicked]
    if positive.empty or negative.empty:
        return 0.5
    return float(mannwhitneyu(positive, negative, method="asymptotic").statistic / (len(positive) * len(negative)))


def find_domain(columns: Mapping[str, Column], clicked: pd.Series | None) -> ColumnChoice:
    """Find the domain: a column with few values and the name of a domain."""
    fitting = []
    for name, column in columns.items():
        if column.kind not in ("integer", "text") or not 2 <= column.distinct <= _MAX_DOMAINS or column.separator:
            continue
        ranks = [DOMAIN.index(word) for word in column.words if word in DOMAIN]
        if not ranks or column.missing > _MAX_MISSING or set(column.words) & NOT_DOMAIN:
            continue
        reason = format_count(column.distinct, "value")
        if clicked is not None:
            by_value = clicked.loc[column.values.index].groupby(column.values.astype(str)).agg(["mean", "size"])
            rates = by_value[by_value["size"] >= _MIN_ROWS]["mean"]
            reason += f"; click rates from {rates.min():.1%} to {rates.max():.1%}" if len(rates) else ""
        fitting.append((len(column.words) > 1, min(ranks), name, reason))
    fitting.sort()
    if not fitting:
        return ColumnChoice(None)
    return ColumnChoice(fitting[0][2], fitting[0][3], tuple(name for _, _, name, _ in fitting[1:4]))


def format_count(n: int, noun: str) -> str:
    """Return a number with a noun: `1 day`, `2,000 days`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
