"""Batches of a split: each row of a version once, as read by pyarrow, and an error for incomplete files."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from star_ctr.conf.contracts.encoded_row import Layout, SplitPartition
from star_ctr.conf.errors import DataError
from star_ctr.features.encoding.row_encoder import pack_rows
from star_ctr.model.data import batches as stream
from star_ctr.model.data.batch_order import DataFile
from star_ctr.model.data.batches import Batch, iter_epoch, prefetch
from star_ctr.model.data.reader import Rows, list_live_files, read_files, unpack_columns
from star_ctr.model.data.shuffle_window import Window
from star_ctr.model.data.step_batches import StepBatches
from tests.model.synthetic import LAYOUT, ROWS, version_of, write_split


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_split(tmp_path_factory.mktemp("split"))


def list_files(table: str, version: int | None = None) -> list[DataFile]:
    return list_live_files(
        table, version_of(table) if version is None else version, [SplitPartition(LAYOUT.ds, "train")], LAYOUT
    )


def read_with_pyarrow(file: DataFile) -> bytes:
    """Read the packed integers of a file with pyarrow."""
    return b"".join(pq.ParquetFile(file.url).read(columns=["ints"])["ints"].to_pylist())


def test_files_are_read_in_order_and_match_pyarrow(table: str) -> None:
    files = list_files(table)
    assert sum(f.rows for f in files) == sum(ROWS.values())
    for order, readers in itertools.product((files, files[::-1]), (1, 3)):
        for file, rows in zip(order, read_files(order, LAYOUT, readers=readers), strict=True):
            assert rows.ints.tobytes() == read_with_pyarrow(file)


def test_an_epoch_has_every_row_once_in_single_domain_batches(table: str) -> None:
    files = list_files(table)
    batches = list(prefetch(iter_epoch(files, LAYOUT, 64, 200, seed=1, epoch=0)))
    everything = sorted(r.tobytes() for b in batches for r in b.rows.ints)
    assert everything == sorted(
        read_with_pyarrow(f)[i * LAYOUT.int_count * 4 : (i + 1) * LAYOUT.int_count * 4]
        for f in files
        for i in range(f.rows)
    )
    rows = {p: sum(len(b.rows) for b in batches if b.domain == p) for p in (1, 2, 3)}
    assert rows == {1: 700, 2: 150, 3: 1}
    assert [len(b.rows) for b in batches if b.domain == 3] == [1]


def test_the_order_depends_only_on_seed_and_epoch(table: str) -> None:
    files = list_files(table)

    def order(seed: int, epoch: int) -> bytes:
        return b"".join(b.rows.ints.tobytes() for b in iter_epoch(files, LAYOUT, 64, 200, seed, epoch))

    assert order(1, 0) == order(1, 0)
    assert len({order(1, 0), order(1, 1), order(2, 0)}) == 3


def test_only_the_files_of_the_version_are_read(tmp_path: Path) -> None:
    table = write_split(tmp_path)
    first = version_of(table)
    write_split(tmp_path, {"a": 10})
    assert sum(f.rows for f in list_files(table, first)) == sum(ROWS.values())
    DeltaTable(table).delete("domain = 'b'")
    assert {f.domain for f in list_files(table)} == {1, 3}
    assert sum(f.rows for f in list_files(table, first)) == sum(ROWS.values())


@pytest.mark.parametrize("change", [-1, 1])
def test_a_missing_or_surplus_row_is_an_error(table: str, change: int) -> None:
    files = list_files(table)
    last = files.pop(0)  # read last, so that rows of other files cannot compensate for it
    files.append(DataFile(last.url, last.domain, last.rows + change, last.key))
    with pytest.raises(DataError, match="rows"):
        for _ in read_files(files, LAYOUT):
            pass


def test_a_file_that_loses_rows_is_an_error(tmp_path: Path) -> None:
    table = write_split(tmp_path)
    files = list_files(table)
    path = files[0].url
    short: pa.Table = pq.ParquetFile(path).read().slice(1)
    pq.write_table(short, path)
    with pytest.raises(DataError):
        list(iter_epoch(files, LAYOUT, 64, 200, 0, 0))


def test_deletion_vectors_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write_split(tmp_path)

    class Protocol:
        reader_features = ("deletionVectors",)

    monkeypatch.setattr(DeltaTable, "protocol", lambda self: Protocol())
    with pytest.raises(DataError, match="deletion vectors"):
        list_files(table)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-12, 12).filter(bool), max_size=30), st.integers(0, 3))
def test_a_window_returns_each_added_row_once(moves: list[int], seed: int) -> None:
    """Positive moves add rows, negative ones draw rows, at most all. At the end, the remaining rows are drawn."""
    window, random = Window(), np.random.default_rng(seed)
    put, got = 0, []
    for move in moves:
        if move > 0:
            new = np.arange(put, put + move)
            window.add(np.stack([new, -new], axis=1), new.astype(np.float64))
            put += move
        elif len(window):
            got.append(window.draw(min(-move, len(window)), random))
    if len(window):
        got.append(window.draw(len(window), random))
    out = [row for pairs, values in got for row in zip(pairs.tolist(), values.tolist(), strict=True)]
    assert sorted(out) == [([i, -i], float(i)) for i in range(put)]


@pytest.mark.parametrize("mixed", [False, True])
def test_an_epoch_resumes_at_any_batch(table: str, mixed: bool) -> None:
    files = list_files(table)
    whole = list(iter_epoch(files, LAYOUT, 64, 200, 3, 1, mixed))
    for start in range(len(whole) + 1):
        rest = list(iter_epoch(files, LAYOUT, 64, 200, 3, 1, mixed, start))
        assert len(rest) == len(whole) - start
        for a, b in zip(rest, whole[start:], strict=True):
            assert a.domain == b.domain
            for column in ("ints", "floats", "label", "domain"):
                assert getattr(a.rows, column).tobytes() == getattr(b.rows, column).tobytes()
            assert a.file.tolist() == b.file.tolist()


def test_a_resumed_epoch_skips_files_that_no_window_needs(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = list_files(table)
    read: list[int] = []

    def count_and_read(files: Sequence[DataFile], layout: Layout, **options: Any) -> Iterator[Rows]:
        read.append(len(files))
        return read_files(files, layout, **options)

    monkeypatch.setattr(stream, "read_files", count_and_read)
    batches = sum(1 for _ in iter_epoch(files, LAYOUT, 64, 200, 3, 1))
    last = list(iter_epoch(files, LAYOUT, 64, 200, 3, 1, start=batches - 1))
    assert len(last) == 1
    assert read[0] == len(files)
    assert read[1] < len(files)


def test_an_error_in_the_reading_thread_reaches_the_trainer() -> None:
    def fail() -> Iterator[Batch]:
        raise DataError("the disk is gone")
        yield  # type: ignore[misc]

    with pytest.raises(DataError, match="the disk is gone"):
        list(prefetch(fail()))


@pytest.mark.parametrize("a_step", [1, 20])
def test_two_steps_are_prefetched_for_any_number_of_batches_per_step(a_step: int) -> None:
    enough = threading.Event()
    rows = Rows(
        np.zeros((1, 1), np.int32), np.zeros((1, 1), np.float32), np.zeros(1, np.float32), np.zeros(1, np.int32)
    )

    def make_batches() -> Iterator[Batch]:
        for k in range(5 * a_step):
            if k + 1 == 3 * a_step:
                enough.set()
            yield Batch(0, rows, np.full(1, k, np.int32))

    steps = StepBatches(make_batches(), a_step)
    assert [int(b.file[0]) for b in steps.take()] == list(range(a_step))
    assert enough.wait(timeout=10), "the batches of the next two steps are prefetched"
    steps.close()


@pytest.mark.slow
def test_repeated_reads_of_many_small_files_have_every_row_once(tmp_path: Path) -> None:
    files = list_files(write_split(tmp_path, rows={"a": 80, "b": 60, "c": 20}, files_a_domain=10))
    assert len(files) == 30
    expected = b"".join(read_with_pyarrow(file) for file in files)
    for read in range(1000):
        ints = b"".join(rows.ints.tobytes() for rows in read_files(files, LAYOUT, readers=1 + read % 4))
        assert ints == expected, f"read {read}"


def test_packed_columns_are_unpacked_from_slices_and_chunks() -> None:
    ints = np.arange(6 * LAYOUT.int_count, dtype=np.int32).reshape(6, LAYOUT.int_count)
    floats = np.arange(6, dtype=np.float32).reshape(6, 1)
    columns = pack_rows(ints), pack_rows(floats)
    for got, expected in zip(
        unpack_columns(*(c.slice(2, 3) for c in columns), LAYOUT), (ints[2:5], floats[2:5]), strict=True
    ):
        assert np.array_equal(got, expected)
    chunked = [pa.chunked_array([c.slice(4, 2), c.slice(0, 0), c.slice(1, 1)]) for c in columns]
    for got, expected in zip(unpack_columns(*chunked, LAYOUT), (ints[[4, 5, 1]], floats[[4, 5, 1]]), strict=True):
        assert np.array_equal(got, expected)
    assert [len(m) for m in unpack_columns(*(c.slice(0, 0) for c in columns), LAYOUT)] == [0, 0]
    with pytest.raises(DataError, match="ints: a row does not have the 28 bytes of the layout"):
        unpack_columns(pack_rows(ints[:, :-1].copy()), columns[1], LAYOUT)
