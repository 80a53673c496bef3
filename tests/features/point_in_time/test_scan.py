"""Compares the scan for the last events with a row-by-row version, on random logs in random batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from star_ctr.features.point_in_time.last_events import KIND_BITS, QUERY_TIME, LastEvents, SequencePlan
from star_ctr.features.point_in_time.scan import IS_QUERY, TIME, scan_batches

ROW = st.tuples(
    st.sampled_from("abc"),  # user
    st.integers(0, 6),  # time: few values, so many ties; 0 is "before everything"
    st.booleans(),  # whether it is a query row
    st.integers(1, 3),  # kinds
    st.integers(0, 9),  # item
)
PLANS = [
    SequencePlan(kinds=(0,), names=("click",), length=2, columns=("item",), gap=True),
    SequencePlan(kinds=(0, 1), names=("click", "cart"), length=3, columns=("item",), behaviour=True),
]


def batches(rows: list[Any], cuts: list[int]) -> Iterator[pa.RecordBatch]:
    ends = sorted({min(c, len(rows)) for c in cuts} | {len(rows)})
    start = 0
    for end in ends:
        part = rows[start:end]
        yield pa.RecordBatch.from_pydict(
            {
                "user": pa.array([r[0] for r in part], pa.string()),
                TIME: pa.array([r[1] * 1_000_000 for r in part], pa.int64()),
                IS_QUERY: pa.array([r[2] for r in part], pa.bool_()),
                KIND_BITS: pa.array([0 if r[2] else r[3] for r in part], pa.int32()),
                "item": pa.array([r[4] for r in part], pa.int64()),
                QUERY_TIME: pa.array([r[1] * 1_000_000 for r in part], pa.int64()),
                "id": pa.array([r[5] for r in part], pa.int64()),
            }
        )
        start = end


def find_last_events(rows: list[Any], query: Any, mask: int, length: int) -> list[Any]:
    """Return the last `length` events of the user that are strictly earlier and have a kind in `mask`."""
    events = [r for r in rows if not r[2] and r[0] == query[0] and r[1] < query[1] and r[3] & mask]
    return events[-length:]


@settings(max_examples=300, deadline=None)
@given(st.lists(ROW, max_size=40), st.lists(st.integers(0, 40), max_size=6))
def test_last_events_are_strictly_before_the_query(rows: list[Any], cuts: list[int]) -> None:
    ordered = sorted(rows, key=lambda r: (r[0], r[1], not r[2], r[4], r[3]))
    numbered = [(*r, i) for i, r in enumerate(ordered)]
    found = pa.Table.from_batches(
        list(scan_batches(batches(numbered, cuts), [LastEvents(["user"], PLANS)], ["id"], ["clicks", "gap", "both", "kind"])),
        schema=pa.schema(
            [("id", pa.int64()), ("clicks", pa.list_(pa.int64())), ("gap", pa.list_(pa.float64())),
             ("both", pa.list_(pa.int64())), ("kind", pa.list_(pa.string()))]
        ),
    ).to_pylist()  # fmt: skip
    queries = [r for r in numbered if r[2]]
    assert [f["id"] for f in found] == [r[5] for r in queries]
    for query, row in zip(queries, found, strict=True):
        clicks = find_last_events(numbered, query, 1, 2)
        both = find_last_events(numbered, query, 3, 3)
        assert row["clicks"] == [e[4] for e in clicks]
        assert row["gap"] == [None if e[1] == 0 else float(query[1] - e[1]) for e in clicks]
        assert row["both"] == [e[4] for e in both]
        assert row["kind"] == ["cart" if e[3] & 2 else "click" for e in both]
