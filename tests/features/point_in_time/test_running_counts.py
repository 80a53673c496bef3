"""Compares running counts with row-by-row sums, and tests the planning of scans."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from star_ctr.conf.settings.features import Sequence, Statistic
from star_ctr.features.point_in_time.events import SCALE
from star_ctr.features.point_in_time.running_counts import CountPlan, RunningCounts
from star_ctr.features.point_in_time.scan import IS_QUERY, TIME, scan_batches
from star_ctr.features.point_in_time.scan_plans import ScanPlan, plan_scans

ROW = st.tuples(
    st.sampled_from(["a", "a", "a", "b", None]),  # the key: mostly the same, so that it spans batches
    st.integers(0, 6),  # time: few values, so many ties; 0 is "before everything"
    st.booleans(),  # whether it is a query row
    st.sampled_from(["x", "x", "y", None]),
    st.sampled_from([1.5, 1.5, 2.0, None]),
    st.sampled_from([-1, 0, 1, 2]),  # two weights
    st.integers(0, 1),
)
GROUPS = [("key",), ("one", "key"), ("key", "two"), ("two", "one", "key")]
PLANS = [CountPlan(by, ("_n_a", "_n_b"), ("_n_a",)) for by in GROUPS]
NAMES = [f"{n}{out}" for n in range(len(PLANS)) for out in ("sum", "other", "since")]
FIELD = {"key": 0, "one": 3, "two": 4}
"""Index of each column in a row."""


def batches(rows: list[Any], size: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        yield pa.RecordBatch.from_pydict(
            {
                "id": pa.array([r[7] for r in part], pa.int64()),
                "key": pa.array([r[0] for r in part], pa.string()),
                TIME: pa.array([r[1] * 1_000_000 for r in part], pa.int64()),
                IS_QUERY: pa.array([r[2] for r in part], pa.bool_()),
                "one": pa.array([r[3] for r in part], pa.string()),
                "two": pa.array([r[4] for r in part], pa.float64()),
                "_n_a": pa.array([None if r[2] else r[5] * SCALE for r in part], pa.int64()),
                "_n_b": pa.array([None if r[2] else r[6] * SCALE for r in part], pa.int64()),
            }
        )


@settings(max_examples=120, deadline=None)
@given(st.one_of(st.lists(ROW, max_size=10), st.lists(ROW, min_size=30, max_size=60)), st.integers(1, 12))
def test_sums_match_the_events_strictly_before_the_cut(rows: list[Any], size: int) -> None:
    # A scan contains no events without a key.
    rows = [r for r in rows if r[2] or r[0] is not None]
    ordered = sorted(rows, key=lambda r: (r[0] or "", r[1], not r[2]))
    numbered = [(*r, i) for i, r in enumerate(ordered)]
    found = [
        row
        for batch in scan_batches(batches(numbered, size), [RunningCounts(["key"], PLANS)], ["id"], NAMES)
        for row in batch.to_pylist()
    ]
    queries = [r for r in numbered if r[2]]
    assert [f["id"] for f in found] == [r[7] for r in queries]
    for query, row in zip(queries, found, strict=True):
        for n, plan in enumerate(PLANS):
            group = [query[FIELD[c]] for c in plan.by]
            got = [row[f"{n}{out}"] for out in ("sum", "other", "since")]
            if None in group:
                assert got == [None, None, None]
                continue
            cut = query[1]
            before = [r for r in numbered if not r[2] and r[1] < cut and [r[FIELD[c]] for c in plan.by] == group]
            times = [r[1] for r in before if r[1] and r[5] > 0]
            since = float(cut - max(times)) if times else None
            assert got == [sum(r[5] for r in before), sum(r[6] for r in before), since]


def statistic(name: str, *by: str, cut: str = "time") -> Statistic:
    return Statistic(name=name, kind="statistic", by=list(by), counts=["shown"], cut=cut)  # type: ignore[arg-type]


def summarize(plans: list[ScanPlan]) -> dict[tuple[str, ...], tuple[list[str], list[str]]]:
    return {p.key: ([s.name for s in p.statistics], [s.name for s in p.sequences]) for p in plans}


def seen(name: str) -> Sequence:
    return Sequence(name=name, kind="sequence", of=["shown"], columns={"item_id": "item"}, cut="time")


def test_a_statistic_shares_the_scan_of_a_coarser_group() -> None:
    statistics = [
        statistic("pair", "user_id", "items.tag"),
        statistic("tag", "items.tag"),
        statistic("hours", "hour", "domain"),
        statistic("again", "domain", "hour"),
        statistic("now", "user_id", "domain"),
        statistic("then", "user_id"),
    ]
    assert summarize(plan_scans(statistics, [seen("seen"), seen("again")])) == {
        ("items_tag",): (["tag"], []),
        ("domain", "hour"): (["hours", "again"], []),
        ("user_id",): (["pair", "now", "then"], ["seen", "again"]),
    }
    assert summarize(plan_scans(statistics[:2], [])) == {("items_tag",): (["pair", "tag"], [])}


def test_the_scan_of_sequences_is_last() -> None:
    counts = [statistic("b", "item_id"), statistic("c", "item_id", "domain")]
    assert [p.key for p in plan_scans(counts, [seen("seen")])] == [("item_id",), ("user_id",)]
