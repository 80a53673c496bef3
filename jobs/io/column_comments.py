"""The meaning of the columns of a data set's tables, for the comments of the columns."""

from __future__ import annotations

from star_ctr.conf.contracts.catalog import LOG_TABLES, TABLES
from star_ctr.conf.contracts.column_names import (
    name_behaviour_column,
    name_count_column,
    name_gap_column,
    name_side_column,
    name_since_column,
)
from star_ctr.conf.settings.features import AnyFeature, Sequence, Statistic, list_read_columns
from star_ctr.conf.settings.root import Settings
from star_ctr.features.cleaning.log_columns import (
    list_consumed_columns,
    list_declared_columns,
    name_stored_column,
)
from star_ctr.features.point_in_time.daily_counts import name_high, name_last, name_low


def describe_columns(settings: Settings, table: str) -> dict[str, str]:
    """Return the meaning of each column of a table that star-ctr or the settings declare.

    Args:
        settings: The settings of the data set.
        table: The name of the table.

    Returns:
        The meaning by column, in one line. Columns of a log that the settings do not mention are not included.
    """
    known = TABLES[table].columns
    if table in LOG_TABLES:
        return {**_describe_log_columns(settings, table), **known}
    if table == "history_counts":
        return {**_describe_sums(settings), **known}
    if table == "features":
        found: dict[str, str] = {}
        for feature in settings.features:
            found.update(_describe_feature(feature))
        return {**found, **known}
    return known


def _describe_sums(settings: Settings) -> dict[str, str]:
    """Return the meaning of the columns with the sums of each kind of history."""
    found = {}
    for kind in settings.history:
        found[name_low(kind)] = f"sum of the events `{kind}` in millionths; if there is a high part, its low part"
        found[name_high(kind)] = f"high part of the sum of `{kind}`, in units of 2^32 millionths"
        found[name_last(kind)] = f"time of the last event `{kind}`, in microseconds since 1970"
    return found


def _describe_log_columns(settings: Settings, name: str) -> dict[str, str]:
    """Return the meaning of the columns of a log that its table stores under their own names."""
    log = settings.logs.get_declared().get(name)
    if log is None:
        return {}
    declared = list_declared_columns(settings, name) - list_consumed_columns(settings, log)
    outcomes = set(getattr(log, "outcomes", ()))
    return {
        name_stored_column(column): f"outcome `{column}` of the impression, as in the log"
        if column in outcomes
        else f"column `{column}` of the log `{name}`"
        for column in sorted(declared)
    }


def _describe_feature(feature: AnyFeature) -> dict[str, str]:
    """Return the meaning of the columns of `features` that a feature reads or adds."""
    found = {}
    if not isinstance(feature, Sequence):
        found = {c.flat: f"`{c}` as of the impression" for c in list_read_columns(feature)}
    if isinstance(feature, Statistic):
        sums = "events `{}` before the impression, {}: sum of weights{}"
        group = f"by {', '.join(feature.by)}"
        group += f", of the last {feature.last_days} days" if feature.last_days else ""
        faded = f", halved every {feature.half_life_days:g} days" if feature.half_life_days else ""
        found |= {
            name_count_column(feature.name, kind): sums.format(kind, group, faded) for kind in feature.list_kinds()
        }
        found |= {
            name_since_column(feature.name, kind): f"seconds since the last event `{kind}`, {group}; null if none"
            for kind in feature.since
        }
    elif isinstance(feature, Sequence):
        events = f"the last events ({', '.join(feature.of)}) before the impression"
        found |= {name_side_column(feature.name, c): f"`{c}` of {events}, the newest last" for c in feature.columns}
        found[name_gap_column(feature.name)] = (
            f"seconds from {events} to the impression; null for an event without time"
        )
        found[name_behaviour_column(feature.name)] = f"kind of {events}"
    return found
