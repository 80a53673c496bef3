"""The partitions of the state of the history: single log days, and roll-ups of several days. Needs no Spark.

If keys expire, all log days up to the end of a large roll-up are also merged into one partition, the base. It holds
only keys that have not expired, so its size does not grow with the age of the log.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from star_ctr.conf.contracts.dates import BEFORE_FIRST_DAY
from star_ctr.conf.contracts.fingerprint import hash_json

SPANS = (8, 64)
"""Numbers of days of the roll-ups. Each is a multiple of the one before."""

EPOCH = "1970-01-01"
"""The first day of every base. A base includes the behaviours before the first log day; its span is its end."""


class Partition(NamedTuple):
    """A part of the state.

    Attributes:
        span: The number of days: 1 for a log day.
        ds: The first of its log days; `before` for the behaviours before the first day.
    """

    span: int
    ds: str


def group_by_span(partitions: Iterable[Partition]) -> dict[int, list[str]]:
    """Return the first days of partitions by their span."""
    found: dict[int, list[str]] = {}
    for partition in partitions:
        found.setdefault(partition.span, []).append(partition.ds)
    return found


def count_days(day: str) -> int:
    """Return the number of days since 1970."""
    return (dt.date.fromisoformat(day) - dt.date(1970, 1, 1)).days


def format_day(number: int) -> str:
    """Return the day that is `number` days after the first day of 1970."""
    return (dt.date(1970, 1, 1) + dt.timedelta(days=number)).isoformat()


def list_blocks(days: Mapping[str, str], ds: str, span: int) -> dict[str, str]:
    """List the complete blocks of several days.

    Args:
        days: The log days, with the hash of what determines their state.
        ds: The last log day.
        span: The number of days of a block.

    Returns:
        The first day of each block with at least two log days, and the hash of their state.
    """
    members: dict[int, list[str]] = {}
    for day, found in days.items():
        if day != BEFORE_FIRST_DAY:
            members.setdefault(count_days(day) // span, []).append(f"{day} {found}")
    end = count_days(ds) + 1
    return {
        format_day(block * span): hash_json(found, 16)
        for block, found in members.items()
        if (block + 1) * span <= end and len(found) > 1
    }


def list_members(days: Mapping[str, str], ds: str, first: str, span: int, smaller: int) -> list[Partition]:
    """List the partitions that a block of days is merged from.

    Args:
        days: The log days, with the hash of what determines their state.
        ds: The last log day.
        first: The first day of the block.
        span: The number of its days.
        smaller: The number of days of the smaller blocks to use where they exist.

    Returns:
        The smaller blocks, and the single days outside of them.
    """
    known = list_blocks(days, ds, smaller) if smaller > 1 else {}
    found = []
    for start in range(count_days(first), count_days(first) + span, smaller):
        if (name := format_day(start)) in known:
            found.append(Partition(smaller, name))
        else:
            single = (format_day(day) for day in range(start, start + smaller))
            found += [Partition(1, day) for day in single if day in days]
    return found


def list_bases(days: Mapping[str, str], ds: str, span: int) -> dict[str, str]:
    """List the two newest bases.

    Args:
        days: The log days, with the hash of what determines their state.
        ds: The last log day.
        span: The number of days between bases.

    Returns:
        The day after the last day of each base with at least two log days, and the hash of its state.
    """
    found, newest = {}, (count_days(ds) + 1) // span * span
    for end in (newest - span, newest):
        members = [f"{day} {state}" for day, state in days.items() if is_before(day, end)]
        if len(members) > 1:
            found[format_day(end)] = hash_json(members, 16)
    return found


def is_before(day: str, end: int) -> bool:
    """Return whether a log day is before a day that is given as days since 1970."""
    return day == BEFORE_FIRST_DAY or count_days(day) < end


def choose_partitions(
    days: Mapping[str, str],
    stored: Mapping[int, Mapping[str, str]],
    ds: str,
    first_cut: int,
    horizon: int,
    bases: Mapping[str, str] = MappingProxyType({}),
) -> list[Partition]:
    """Choose the partitions whose union is the state of all log days, as seen from some cuts.

    Args:
        days: The log days, with the hash of what determines their state.
        stored: The roll-ups that exist, by their number of days: their first days, with the hash of their state.
        ds: The last log day.
        first_cut: The earliest day of a cut, as days since 1970.
        horizon: Number of days before a cut that must be separate.
        bases: The bases that exist: the day after their last day, with the hash of their state.

    Returns:
        The partitions. Roll-ups and the base end before the horizon of the earliest cut.
    """
    current = list_bases(days, ds, max(stored)) if bases else {}
    ends = [count_days(end) for end, inputs in current.items() if bases.get(end) == inputs]
    base = max((end for end in ends if end <= first_cut - horizon), default=0)
    found = [Partition(base, EPOCH)] if base else []
    rolled = {day for day in days if is_before(day, base)} if base else set()
    if BEFORE_FIRST_DAY in days and not base:
        found.append(Partition(1, BEFORE_FIRST_DAY))
    for span in sorted(stored, reverse=True):
        for first, inputs in list_blocks(days, ds, span).items():
            start = count_days(first)
            members = {format_day(day) for day in range(start, start + span)}
            is_current = stored[span].get(first) == inputs
            if is_current and start + span <= first_cut - horizon and not members & rolled:
                rolled |= members
                found.append(Partition(span, first))
    return [*found, *(Partition(1, day) for day in days if day != BEFORE_FIRST_DAY and day not in rolled)]
