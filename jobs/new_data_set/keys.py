"""Find the keys of a log: its user, item, time, label, domain and outcomes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import pandas as pd

from star_ctr.jobs.new_data_set.column_words import DOMAIN, ID, LABEL, OUTCOME, TIME
from star_ctr.jobs.new_data_set.columns import Column

_POSITIVE = ("1", "true", "True", "TRUE", "yes", "Y", "y", "t")
_MAX_DOMAINS = 200
_MAX_MISSING = 0.05
_MIN_ROWS = 100
"""A click rate is shown only for domains with at least this number of rows in the sample."""


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
    """Find the id of a user or item. Its name has one of `words`, and at most one word that is not in `ID` either."""
    fitting = []
    for name, column in columns.items():
        found = [word for word in column.words if word in words]
        rest = [word for word in column.words if word not in words and word not in ID]
        if found and column.kind in ("integer", "text") and column.distinct > 1 and len(rest) <= 1:
            fitting.append((len(rest), -column.distinct, name))
    names = [name for *_, name in sorted(fitting)]
    if not names:
        return ColumnChoice(None)
    return ColumnChoice(names[0], f"{format_count(columns[names[0]].distinct, 'id')} in the sample", tuple(names[1:4]))


def find_time(columns: Mapping[str, Column]) -> ColumnChoice:
    """Find the time of a row: a time with a time of day."""
    times = [c for c in columns.values() if c.kind == "time"]
    times.sort(key=lambda c: (not set(c.words) & TIME, -c.distinct))
    if not times:
        return ColumnChoice(None)
    return ColumnChoice(
        times[0].name, format_count(times[0].distinct, "distinct time"), tuple(c.name for c in times[1:3])
    )


def find_label(columns: Mapping[str, Column]) -> ColumnChoice:
    """Find a column that says whether the impression was clicked."""
    fitting = [c for c in columns.values() if set(c.words) & LABEL and 2 <= c.distinct <= 3 and get_positive(c)]
    fitting.sort(key=lambda c: (len(c.words), c.name))
    if not fitting:
        return ColumnChoice(None)
    share = (fitting[0].values.astype(str) == get_positive(fitting[0])).mean()
    return ColumnChoice(fitting[0].name, f"click rate {share:.1%} in the sample", tuple(c.name for c in fitting[1:3]))


def get_positive(column: Column) -> str | None:
    """Return the value of a label that means a click."""
    values = {str(v) for v in column.values.unique()}
    return next((v for v in _POSITIVE if v in values), None)


def get_label_values(column: Column) -> tuple[list[str], list[str]]:
    """Return the values of a label that mean a click, and those that do not."""
    positive = str(get_positive(column))
    return [positive], sorted({str(v) for v in column.values.unique()} - {positive})


def find_outcomes(columns: Mapping[str, Column], clicked: pd.Series | None) -> dict[str, str]:
    """Find the outcomes: columns named like one, or whose unusual values occur almost only on clicked rows."""
    found = {}
    for name, column in columns.items():
        if set(column.words) & OUTCOME and column.kind in ("integer", "number"):
            found[name] = "chosen by name"
            continue
        if clicked is None or not 0 < clicked.mean() < 0.9 or column.kind not in ("integer", "number", "text"):
            continue
        # A usual value on rows without a click and another one on rows with a click.
        is_other = column.values.astype(str) != column.values.astype(str).mode().iloc[0]
        happened = is_other[is_other].index
        own = clicked.loc[happened]
        if len(own) >= 20 and own.mean() > 0.97 and len(own) > 0.05 * clicked.sum():
            found[name] = f"{own.mean():.0%} of the rows with an unusual value are clicked"
    return found


def find_domain(columns: Mapping[str, Column], clicked: pd.Series | None) -> ColumnChoice:
    """Find the domain: a column with few values, preferably with the name of a domain."""
    fitting = []
    for name, column in columns.items():
        if column.kind not in ("integer", "text") or not 2 <= column.distinct <= _MAX_DOMAINS or column.separator:
            continue
        ranks = [DOMAIN.index(word) for word in column.words if word in DOMAIN]
        if not ranks or column.missing > _MAX_MISSING:
            continue
        reason = format_count(column.distinct, "value")
        if clicked is not None:
            by_value = clicked.loc[column.values.index].groupby(column.values.astype(str)).agg(["mean", "size"])
            rates = by_value[by_value["size"] >= _MIN_ROWS]["mean"]
            reason += f"; click rates from {rates.min():.1%} to {rates.max():.1%}" if len(rates) else ""
        fitting.append((min(ranks), name, reason))
    fitting.sort()
    if not fitting:
        return ColumnChoice(None)
    return ColumnChoice(fitting[0][1], fitting[0][2], tuple(name for _, name, _ in fitting[1:4]))


def format_count(n: int, noun: str) -> str:
    """Return a number with a noun: `1 day`, `2,000 days`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
