"""Derived names of columns, numbers and embedding tables, and the check that they are unique.

The names are built from the declared names of features, kinds of history and columns. Code only builds these names and
never parses them. The check ignores case, because column names in Spark are case-insensitive.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from star_ctr.conf.contracts.column_ref import ColumnRef
from star_ctr.conf.contracts.encoded_row import BEHAVIOUR_TABLE, GAP_TABLE
from star_ctr.conf.settings.features import (
    AnyFeature,
    Categorical,
    Numeric,
    Sequence,
    Statistic,
    Vector,
    list_read_columns,
)

IDENTITY_COLUMNS = ("impression_id", "ds", "ts", "user_id", "item_id", "domain")
"""Columns of every row of `features`."""


def name_count_column(statistic: str, kind: str) -> str:
    """Return the name of the column that counts the events of a kind."""
    return f"{statistic}__{kind}"


def name_since_column(statistic: str, kind: str) -> str:
    """Return the name of the column with the seconds since the last event of a kind (null: none yet)."""
    return f"{statistic}__since_{kind}"


def name_rate(statistic: str, kind: str) -> str:
    """Return the name of the number that is the smoothed rate of a kind."""
    return f"{statistic}__rate_{kind}"


def name_missing_flag(number: str) -> str:
    """Return the name of the missing-value flag of a number."""
    return f"{number}__missing"


def name_bucket_table(number: str) -> str:
    """Return the name of a number's bucket field and of its embedding table; both are the same."""
    return f"{number}__bucket"


def name_side_column(sequence: str, column: ColumnRef) -> str:
    """Return the name of the list column of a sequence for one column of its events."""
    return f"{sequence}__{column.flat}"


def name_gap_column(sequence: str) -> str:
    """Return the name of the list column with the seconds from event to impression (null: the event has no time)."""
    return f"{sequence}__gap"


def name_behaviour_column(sequence: str) -> str:
    """Return the name of the list column with the kind of each event."""
    return f"{sequence}__behaviour"


def name_outcome_label(outcome: str) -> str:
    """Return the name of the column of `labels` that contains a further outcome (`label.also`)."""
    return f"outcome_{outcome}"


def find_name_problems(features: Iterable[AnyFeature], history: Iterable[str]) -> list[str]:
    """Find invalid and colliding names.

    Args:
        features: The declared features.
        history: The names of the kinds of history.

    Returns:
        A message for each invalid kind name, and for each pair of declarations that produce the same name.
    """
    features = list(features)
    iterators = {"column of `features`": _iter_columns, "number": _iter_numbers, "embedding table": _iter_tables}
    problems: dict[frozenset[str], str] = {}
    for what, iter_names in iterators.items():
        seen: dict[str, str] = {}
        for name, key, origin in iter_names(features):
            other = seen.setdefault(name.lower(), origin)
            if other != origin:
                collision = f"{key}: {origin} and {other} both produce the {what} `{name}`; rename one of them"
                problems.setdefault(frozenset((origin, other)), collision)
    return [*_find_kind_problems(history), *problems.values()]


def _find_kind_problems(history: Iterable[str]) -> list[str]:
    """Return a message for each kind of history with an invalid name, or with the name of another except for case."""
    problems, seen = [], dict[str, str]()
    for kind in history:
        if not re.fullmatch(r"[\w-]+", kind):
            problems.append(f"history: `{kind}`: a name may only have letters, digits, `_` and `-`; rename it")
        other = seen.setdefault(kind.lower(), kind)
        if other != kind:
            problems.append(f"history.{kind}: differs from `{other}` only in case; rename one of them")
    return problems


def _iter_columns(features: list[AnyFeature]) -> Iterator[tuple[str, str, str]]:
    """Yield the columns of `features` and of events: name, settings key, and a description of the origin."""
    yield from ((name, "features", f"the built-in column `{name}`") for name in IDENTITY_COLUMNS)
    for name in ("settings", "label", "label_final"):
        yield name, "features", f"the built-in column `{name}`"
    for f in features:
        where = f"features.{f.name}"
        for column in list_read_columns(f):
            origin = f"the built-in column `{column}`" if column in IDENTITY_COLUMNS else f"`{column}`"
            yield column.flat, where, origin
        if isinstance(f, Statistic):
            for kind in f.list_kinds():
                yield name_count_column(f.name, kind), where, f"the count of `{kind}` in `{f.name}`"
            for kind in f.since:
                yield name_since_column(f.name, kind), where, f"the time since `{kind}` in `{f.name}`"
        elif isinstance(f, Sequence):
            for column in f.columns:
                yield name_side_column(f.name, column), where, f"`{column}` of the events in `{f.name}`"
            if f.gap:
                yield name_gap_column(f.name), where, f"the gaps of `{f.name}`"
            if f.behaviour:
                yield name_behaviour_column(f.name), where, f"the behaviours of `{f.name}`"


def _iter_numbers(features: list[AnyFeature]) -> Iterator[tuple[str, str, str]]:
    """Yield the numbers that features produce, in the form of `_iter_columns`."""
    for f in features:
        where = f"features.{f.name}"
        if isinstance(f, Numeric):
            yield f.name, where, f"the feature `{f.name}`"
            if "missing" in f.encode:
                yield name_missing_flag(f.name), where, f"whether `{f.name}` is missing"
        elif isinstance(f, Vector):
            yield f.name, where, f"the feature `{f.name}`"
            yield name_missing_flag(f.name), where, f"whether `{f.name}` is missing"
        elif isinstance(f, Statistic):
            for kind in f.counts:
                yield name_count_column(f.name, kind), where, f"the count of `{kind}` in `{f.name}`"
            for kind in f.rates:
                yield name_rate(f.name, kind), where, f"the rate of `{kind}` in `{f.name}`"
            for kind in f.since:
                yield name_since_column(f.name, kind), where, f"the time since `{kind}` in `{f.name}`"


def _iter_tables(features: list[AnyFeature]) -> Iterator[tuple[str, str, str]]:
    """Yield the embedding tables that features use, in the form of `_iter_columns`."""
    yield GAP_TABLE, "features", "the time gaps of sequences"
    yield BEHAVIOUR_TABLE, "features", "the kinds of events in sequences"
    for f in features:
        where = f"features.{f.name}"
        if isinstance(f, Categorical):
            name = f.embedding or f.name
            yield name, where, f"the embedding `{name}`"
        elif isinstance(f, Sequence):
            yield from ((name, where, f"the embedding `{name}`") for name in f.columns.values())
        elif not isinstance(f, Vector) and "bucket" in f.encode:
            yield from (
                (name_bucket_table(name), where, f"the buckets of `{name}`") for name, _, _ in _iter_numbers([f])
            )
