"""Plan which scans compute the statistics and sequences with the cut `time`.

Each scan needs a shuffle and a sort, so features share scans:

- A statistic that groups by more columns than a key, such as `user x category`, shares the scan of the key `user`.
- Sequences share the scan of the key `user_id`.

A group of columns with few values, such as `domain`, shares its scan with no other group: a scan by domain would send
all users of a domain to one task.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from typing import NamedTuple

from star_ctr.conf.settings.features import Sequence, Statistic
from star_ctr.features.point_in_time.events import name_weight_column

USER_KEY = ("user_id",)
"""The key of all sequences."""
_COARSE = frozenset({"domain", "hour", "weekday"})
"""Columns with few values. A key of only such columns is not shared."""
_MAX_BITS = 60
"""Maximum number of kinds of the sequences of one scan."""


class ScanPlan(NamedTuple):
    """The features that one scan computes.

    Attributes:
        key: The columns of `rows` by which the scan is partitioned and sorted, besides the day.
        statistics: Statistics of the scan. All group by the columns of `key`, and possibly by more columns.
        sequences: Sequences of the scan.
    """

    key: tuple[str, ...]
    statistics: list[Statistic]
    sequences: list[Sequence]


def plan_scans(statistics: Seq[Statistic], sequences: Seq[Sequence]) -> list[ScanPlan]:
    """Return the scans that compute statistics and sequences with the cut `time`.

    A key is a group of columns that contains no other group. Each statistic belongs to a key whose columns are a subset
    of its group. Scans with sequences come last, because each later scan would have to shuffle their list columns.
    """
    groups = {s.name: tuple(sorted(c.flat for c in s.by)) for s in statistics}
    candidates = dict.fromkeys(([USER_KEY] if sequences else []) + list(groups.values()))
    shared = [group for group in candidates if not set(group) <= _COARSE]
    keys = [group for group in candidates if not any(set(other) < set(group) for other in shared)]
    key_by_statistic = {
        name: next(k for k in keys if k == group or (k in shared and set(k) < set(group)))
        for name, group in groups.items()
    }
    plans = []
    for key in keys:
        chunks = _split_sequences(sequences) if key == USER_KEY else []
        own = [s for s in statistics if key_by_statistic[s.name] == key]
        plans.append(ScanPlan(key, own, chunks[0] if chunks else []))
        plans += (ScanPlan(key, [], chunk) for chunk in chunks[1:])
    return sorted(plans, key=lambda p: bool(p.sequences))


def _split_sequences(sequences: Seq[Sequence]) -> list[list[Sequence]]:
    """Split sequences into scans with at most _MAX_BITS kinds."""
    chunks: list[list[Sequence]] = []
    for sequence in sequences:
        if not chunks or sum(len(s.of) for s in [*chunks[-1], sequence]) > _MAX_BITS:
            chunks.append([])
        chunks[-1].append(sequence)
    return chunks


def number_bits(plan: ScanPlan) -> Iterator[tuple[Sequence, int]]:
    """Yield each sequence of a scan with the number of the bit of its first kind."""
    bit = 0
    for sequence in plan.sequences:
        yield sequence, bit
        bit += len(sequence.of)


def list_inputs(plan: ScanPlan) -> tuple[list[str], list[str], list[str]]:
    """Return the group columns of a scan, its weight columns, and those whose last time it needs."""
    by = list(dict.fromkeys((*plan.key, *(column.flat for s in plan.statistics for column in s.by))))
    since = list(dict.fromkeys(name_weight_column(kind) for s in plan.statistics for kind in s.since))
    counted = (name_weight_column(kind) for s in plan.statistics for kind in s.list_kinds())
    return by, list(dict.fromkeys((*counted, *since))), since
