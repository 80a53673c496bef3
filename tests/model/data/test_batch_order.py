"""The order of an epoch: each row once, reproducible, and domains in proportion."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from star_ctr.conf.contracts.domains import MIXED
from star_ctr.model.data.batch_order import DataFile, Draw, Read, count_rows_by_domain, plan_epoch

FILES = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 50)), min_size=1, max_size=20)


def make_files(shape: list[tuple[int, int]]) -> list[DataFile]:
    return [DataFile(f"f{i}", domain, rows) for i, (domain, rows) in enumerate(shape)]


@settings(max_examples=200, deadline=None)
@given(FILES, st.integers(1, 30), st.integers(1, 200), st.integers(0, 5), st.integers(0, 3), st.booleans())
def test_every_file_is_read_once_and_every_row_drawn_once(
    shape: list[tuple[int, int]], batch: int, window: int, seed: int, epoch: int, mixed: bool
) -> None:
    files = make_files(shape)
    steps = list(plan_epoch(files, batch, window, seed, epoch, mixed))
    assert sorted(s.file for s in steps if isinstance(s, Read)) == list(range(len(files)))
    drawn: Counter[int] = Counter()
    in_window: Counter[int] = Counter()
    for step in steps:
        if isinstance(step, Read):
            in_window[MIXED if mixed else files[step.file].domain] += files[step.file].rows
        else:
            in_window[step.domain] -= step.rows
            drawn[step.domain] += step.rows
            assert 1 <= step.rows <= batch
            assert in_window[step.domain] >= 0, "rows are drawn before they are read"
    assert dict(drawn) == count_rows_by_domain(files, mixed)
    assert sum(drawn.values()) == sum(rows for _, rows in shape)
    assert steps == list(plan_epoch(files, batch, window, seed, epoch, mixed))


def test_seed_and_epoch_change_the_order() -> None:
    files = make_files([(p % 3, 40) for p in range(12)])
    orders = {str(list(plan_epoch(files, 10, 50, seed, epoch))) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


def test_domains_are_in_proportion_throughout_an_epoch() -> None:
    files = make_files([(1, 1000)] * 8 + [(2, 1000)] * 2)
    draws = [s.domain for s in plan_epoch(files, 100, 2000, 0, 0) if isinstance(s, Draw)]
    first_half = draws[: len(draws) // 2]
    assert 5 <= first_half.count(2) <= 15  # 20 of 100, so about 10 of the first 50
