"""The stream: every row of a version once, against a plain pyarrow twin, and an error for anything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from star_ctr.conf.errors import DataError
from star_ctr.model.plan import DataFile
from star_ctr.model.stream import Batch, Window, ahead, epoch_batches, joined, live_files, read_files
from tests.model.synthetic import LAYOUT, ROWS, version_of, write_split


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_split(tmp_path_factory.mktemp("split"))


def files_at(table: str, version: int | None = None) -> list[DataFile]:
    return live_files(table, version_of(table) if version is None else version, LAYOUT.ds, "train", LAYOUT)


def plain(file: DataFile) -> bytes:
    """The packed integers of a file, read by pyarrow alone."""
    return b"".join(pq.ParquetFile(file.url.removeprefix("file://")).read(columns=["ints"])["ints"].to_pylist())


def test_files_come_in_order_and_equal_their_pyarrow_twin(table: str) -> None:
    files = files_at(table)
    assert sum(f.rows for f in files) == sum(ROWS.values())
    for order in (files, files[::-1]):
        for file, rows in zip(order, read_files(order, LAYOUT), strict=True):
            assert rows.ints.tobytes() == plain(file)


def test_an_epoch_holds_every_row_once_in_single_domain_batches(table: str) -> None:
    files = files_at(table)
    batches = list(ahead(epoch_batches(files, LAYOUT, 64, 200, seed=1, epoch=0)))
    everything = sorted(r.tobytes() for b in batches for r in b.rows.ints)
    assert everything == sorted(
        plain(f)[i * LAYOUT.ints * 4 : (i + 1) * LAYOUT.ints * 4] for f in files for i in range(f.rows)
    )
    rows = {p: sum(len(b.rows) for b in batches if b.domain == p) for p in (1, 2, 3)}
    assert rows == {1: 700, 2: 150, 3: 1}
    assert [len(b.rows) for b in batches if b.domain == 3] == [1]


def test_the_order_is_a_function_of_seed_and_epoch(table: str) -> None:
    files = files_at(table)

    def order(seed: int, epoch: int) -> bytes:
        return b"".join(b.rows.ints.tobytes() for b in epoch_batches(files, LAYOUT, 64, 200, seed, epoch))

    assert order(1, 0) == order(1, 0)
    assert len({order(1, 0), order(1, 1), order(2, 0)}) == 3


def test_only_the_files_of_the_version_are_read(tmp_path: Path) -> None:
    table = write_split(tmp_path)
    first = version_of(table)
    write_split(tmp_path, {"a": 10})
    assert sum(f.rows for f in files_at(table, first)) == sum(ROWS.values())
    DeltaTable(table).delete("domain = 'b'")
    assert {f.domain for f in files_at(table)} == {1, 3}
    assert sum(f.rows for f in files_at(table, first)) == sum(ROWS.values())


@pytest.mark.parametrize("change", [-1, 1])
def test_a_row_too_few_or_too_many_is_an_error(table: str, change: int) -> None:
    files = files_at(table)
    last = files.pop(0)  # read last, so that no other file's rows can make up for it
    files.append(DataFile(last.url, last.domain, last.rows + change, last.key))
    with pytest.raises(DataError, match="rows"):
        for _ in read_files(files, LAYOUT):
            pass


def test_a_file_that_loses_rows_is_an_error(tmp_path: Path) -> None:
    table = write_split(tmp_path)
    files = files_at(table)
    path = files[0].url.removeprefix("file://")
    short: pa.Table = pq.ParquetFile(path).read().slice(1)
    pq.write_table(short, path)
    with pytest.raises(DataError):
        list(epoch_batches(files, LAYOUT, 64, 200, 0, 0))


def test_deletion_vectors_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write_split(tmp_path)

    class Protocol:
        reader_features = ("deletionVectors",)

    monkeypatch.setattr(DeltaTable, "protocol", lambda self: Protocol())
    with pytest.raises(DataError, match="deletion vectors"):
        files_at(table)


def test_window_gives_out_what_it_took_in() -> None:
    from star_ctr.model.stream import Rows

    def rows(values: range) -> Rows:
        x = np.array(values, dtype=np.int32)[:, None]
        return Rows(x, x.astype(np.float32), x[:, 0].astype(np.float32), np.zeros(len(x), dtype=np.int32))

    window, random = Window(), np.random.default_rng(0)
    window.add(rows(range(10)))
    out = [window.draw(4, random)]
    window.add(rows(range(10, 15)))
    out += [window.draw(8, random), window.draw(3, random)]
    everything = joined(out)
    assert sorted(everything.ints[:, 0].tolist()) == list(range(15))
    assert (everything.ints[:, 0] == everything.label).all()


def test_an_error_in_the_reading_thread_reaches_the_trainer() -> None:
    def broken() -> object:
        raise DataError("the disk is gone")
        yield Batch(0, joined([]))

    with pytest.raises(DataError, match="the disk is gone"):
        list(ahead(broken()))  # type: ignore[arg-type]
