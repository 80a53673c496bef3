"""The kernel of running statistics: for each request, sums over all earlier events of its groups.

A pass has one key; the groups of its statistics are those of the key, each cut further by columns of its own. Within a
batch, rows are ordered by group and their weights summed up along them. Across batches the sums of the last key are
carried, by those columns, as if each were one event.

A cut may lie before a request's own time: at the start of a day. What is carried is then summed by day, with
the last time of each, so that every sum lies before such a cut or not.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from star_ctr.features.asof import REQUEST, TIME, Ints, codes, joined, requests_of, runs
from star_ctr.features.timeline import SCALE, UNTIMED

CUT = "_cut"
"""Of a request: an earlier cut than TIME, either TIME or the start of a day."""
DAY = "_day"
"""Of an event: its day, any number for it."""


@dataclass(frozen=True)
class Counted:
    """A statistic: the columns of its group, the weights that are summed, and those whose last event's time is told.

    `cut`: TIME or CUT, before which events count.
    """

    by: tuple[str, ...]
    sums: tuple[str, ...]
    since: tuple[str, ...] = ()
    cut: str = TIME


class Running:
    """The columns of statistics, one after the other: sums (of events, not millionths), then seconds since the last.

    A batch has TIME, REQUEST, the columns of `key` and of the groups, weights in millionths (null: none), and CUT and
    DAY if a statistic has that cut. All are null for a request that lacks a column of the group; the seconds where
    there was no event with a time, too.
    """

    def __init__(self, key: Seq[str], statistics: Seq[Counted]) -> None:
        self.key = list(key)
        self.statistics = statistics
        self.by = list(dict.fromkeys((*key, *(column for s in statistics for column in s.by))))
        self.weights = list(dict.fromkeys(w for s in statistics for w in (*s.sums, *s.since)))
        self.since = list(dict.fromkeys(w for s in statistics for w in s.since))
        self.cuts = list(dict.fromkeys(s.cut for s in statistics))
        self.days = [DAY] if CUT in self.cuts else []
        self.columns = list(dict.fromkeys((TIME, REQUEST, *self.cuts, *self.days, *self.by, *self.weights)))
        self.carried: pa.Table | None = None

    def feed(self, batch: pa.RecordBatch) -> list[pa.Array]:
        """The statistics of the batch's requests."""
        rows = self._with_last(joined(self.carried, batch, self.columns))
        requests = requests_of(batch) + (rows.num_rows - batch.num_rows)
        asked = {cut: rows[cut].take(pa.array(requests)).to_numpy() for cut in self.cuts}
        earlier = _ranked(rows[TIME].to_numpy(), asked[CUT]) if CUT in asked else None
        numbers = {column: codes(rows[column]) for column in self.by}
        weights = {name: _weights(rows, name) for name in self.weights}
        starts = runs([numbers[column] for column in self.key])
        groups: dict[tuple[str, ...], _Group] = {}
        arrays: list[pa.Array] = []
        for statistic in self.statistics:
            by = (statistic.cut, *sorted(statistic.by))
            if by not in groups:
                parts = [numbers[c] for c in by[1:] if c not in self.key]
                groups[by] = _Group(starts, parts, requests, None if statistic.cut == TIME else earlier)
            group = groups[by]
            lacks = np.any([numbers[column][requests] < 0 for column in statistic.by], axis=0)
            arrays += (pa.array(group.sums(weights[name]) / SCALE, mask=lacks) for name in statistic.sums)
            for name in statistic.since:
                last = group.newest(rows[_last(name)].to_numpy())
                seconds = (asked[statistic.cut] - last) / 1e6
                arrays.append(pa.array(seconds, mask=lacks | (last == UNTIMED)))
        self.carried = self._summed(rows.slice(int(starts[-1])))
        return arrays

    def _with_last(self, rows: pa.Table) -> pa.Table:
        """`rows` with the time at which each event with a weight happened (else UNTIMED), unless it is carried."""
        for name in self.since:
            times = np.where(_weights(rows, name) > 0, rows[TIME].to_numpy(), UNTIMED)
            last = pa.array(times)
            if _last(name) in rows.column_names:
                last = pc.coalesce(rows[_last(name)], last)
                rows = rows.drop_columns([_last(name)])
            rows = rows.append_column(_last(name), last)
        return rows

    def _summed(self, rows: pa.Table) -> pa.Table | None:
        """The events of rows, summed by all columns."""
        events = rows.filter(pc.invert(rows[REQUEST]))
        if events.num_rows == 0:
            return None
        most = [(TIME, "max"), *((_last(name), "max") for name in self.since)]
        summed = events.group_by([*self.by, *self.days], use_threads=False).aggregate(
            [*((w, "sum") for w in self.weights), *most]
        )
        summed = summed.rename_columns([name.removesuffix("_sum").removesuffix("_max") for name in summed.column_names])
        return summed.append_column(REQUEST, pa.array(np.zeros(summed.num_rows, bool))).sort_by(TIME)


class _Ranked(NamedTuple):
    """The times of rows and the cuts of requests by their rank among both; how many ranks there are."""

    times: Ints
    cuts: Ints
    ranks: int


def _ranked(times: Ints, cuts: Ints) -> _Ranked:
    values, rank = np.unique(np.concatenate([times, cuts]), return_inverse=True)
    return _Ranked(rank[: len(times)], rank[len(times) :], len(values))


class _Group:
    """Rows in the order of one group, which parts the runs of a key by more columns; where each request's past ends.

    `starts`: where each row's run begins; `earlier`: the requests' cuts, before which an event counts; None: their own
    times.
    """

    def __init__(self, starts: Ints, columns: Seq[Ints], requests: Ints, earlier: _Ranked | None) -> None:
        code = starts
        for column in columns:
            # Numbered anew each time: the product of many columns' sizes would not fit.
            code = np.unique(code * (column.max() + 2) + column + 1, return_inverse=True)[1]
        self.order = np.argsort(code, kind="stable")
        self.run = runs([code[self.order]])
        place = np.empty(len(code), np.int64)
        place[self.order] = np.arange(len(code))
        self.end = place[requests]
        self.first = self.run[self.end]
        if earlier is not None:
            # Later groups lie above all of earlier ones, so that one search serves all.
            at = self.run * earlier.ranks + earlier.times[self.order]
            self.end = np.searchsorted(at, self.first * earlier.ranks + earlier.cuts)

    def sums(self, weights: Ints) -> Ints:
        """The sum over what counts for each request; the weight of requests is 0."""
        until = np.concatenate([[0], np.cumsum(weights[self.order])])
        return np.asarray(until[self.end] - until[self.first])

    def newest(self, times: Ints) -> Ints:
        """The largest of what counts for each request, else UNTIMED; that of requests is UNTIMED."""
        values, rank = np.unique(times, return_inverse=True)
        above = self.run * len(values)
        newest = values[np.maximum.accumulate(above + rank[self.order]) - above]
        return np.where(self.end > self.first, newest[self.end - 1], UNTIMED)


def _weights(rows: pa.Table, name: str) -> npt.NDArray[np.int64]:
    return np.asarray(pc.fill_null(rows[name], 0), np.int64)


def _last(weight: str) -> str:
    return f"_last{weight}"
