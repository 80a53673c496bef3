"""State of running counts between batches: works with any names, and sums do not overflow."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_ctr.features.point_in_time.events import LARGEST_OUTCOME, SCALE, name_weight_column
from star_ctr.features.point_in_time.running_counts import CountPlan, RunningCounts
from star_ctr.features.point_in_time.scan import IS_QUERY, TIME, scan_batches

NAME = st.builds(
    lambda start, middle, end: f"{start}{middle}{end}",
    st.sampled_from(["", "_", "__", "_last", "_n_", "_last_n_"]),
    st.sampled_from(["a", "b", "price", "t", "day", "0", "1"]),
    st.sampled_from(["", "_max", "_sum", "_first", "_max_sum", "_sum_sum", "__sum", "_", "_last"]),
)


def batches(columns: dict[str, pa.Array], size: int) -> Iterator[pa.RecordBatch]:
    yield from pa.table(columns).to_batches(max_chunksize=size)


def compute_statistics(names: list[str], kinds: list[str], size: int) -> list[list[float | None]]:
    """Compute statistics of one key over 30 rows (two events, then a query row) with the given names."""
    key, group = names
    first, second = map(name_weight_column, kinds)
    rows = range(30)
    is_query = [n % 3 == 2 for n in rows]
    columns = {
        "id": pa.array(rows, pa.int64()),
        TIME: pa.array([1_000_000 * (1 + n) for n in rows], pa.int64()),
        IS_QUERY: pa.array(is_query),
        key: pa.array(["k"] * 30),
        group: pa.array(["x" if n % 4 else "y" for n in rows]),
        first: pa.array([None if query else SCALE for query in is_query], pa.int64()),
        second: pa.array([None if query else SCALE * (n % 2) for n, query in zip(rows, is_query, strict=True)], pa.int64()),
    }  # fmt: skip
    counted = [CountPlan(by, (first, second), (second, first)) for by in ((key,), (key, group))]
    out = [str(n) for n in range(4 * len(counted))]
    found = scan_batches(batches(columns, size), [RunningCounts([key], counted)], ["id"], out)
    return [[row[name] for name in out] for batch in found for row in batch.to_pylist()]


USUAL = compute_statistics(["key", "group"], ["one", "two"], 30)


def test_counts_of_a_group_named_max_span_three_batches() -> None:
    """The first query row of a key has two earlier events, the second four, and so on, for any batch size."""
    for size in (30, 9, 3):
        found = compute_statistics(["items_price_max", "items_price_sum"], ["spend_max", "spend_sum"], size)
        assert [row[0] for row in found] == [2.0 * n for n in range(1, 11)]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(NAME, min_size=2, max_size=2, unique=True),
    st.lists(NAME, min_size=2, max_size=2, unique=True),
    st.integers(1, 10),
)
def test_values_do_not_depend_on_the_names_of_columns_and_kinds(names: list[str], kinds: list[str], size: int) -> None:
    taken = {TIME, IS_QUERY, "id"}
    if len({*names, *map(name_weight_column, kinds)} - taken) == 4:
        assert compute_statistics(names, kinds, size) == USUAL


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("size", [3, 7, 200])
def test_sums_beyond_64_bits_are_exact(sign: int, size: int) -> None:
    """100 outcomes of the maximum value and a small one: in millionths, their sum is ten times the int64 maximum."""
    largest = int(LARGEST_OUTCOME) * SCALE
    amounts = [sign * (largest - n * n) for n in range(100)] + [sign * 3]
    rows = [(amount, asks) for amount in amounts for asks in (False, True)]
    columns = {
        "id": pa.array(range(len(rows)), pa.int64()),
        TIME: pa.array([1_000_000 * (1 + n) for n in range(len(rows))], pa.int64()),
        IS_QUERY: pa.array([asks for _, asks in rows]),
        "key": pa.array(["k"] * len(rows)),
        "w": pa.array([None if asks else amount for amount, asks in rows], pa.int64()),
    }
    kernel = RunningCounts(["key"], [CountPlan(("key",), ("w",), ("w",))])
    found = [r for b in scan_batches(batches(columns, size), [kernel], [], ["sum", "since"]) for r in b.to_pylist()]
    exact = [sum(amounts[: n + 1]) for n in range(len(amounts))]
    assert [row["sum"] for row in found] == [float(Fraction(total)) / SCALE for total in exact]
    assert [row["since"] for row in found] == [1.0 if sign > 0 else None] * len(amounts)
