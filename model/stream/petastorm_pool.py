"""Petastorm's reader with a pool that loses nothing and waits for nothing.

The pools that come with it either lose rows (threads) or, with one thread, look for work every tenth of a second, which
is longer than a small file takes. Any pool can be handed to `petastorm.reader.Reader`; ours does the work in the
thread that asks for a row group, one after another, in the order of the files.
"""

from __future__ import annotations

import queue
from collections.abc import Sequence
from typing import Any

from fsspec import AbstractFileSystem
from petastorm.arrow_reader_worker import ArrowReaderWorker, ArrowReaderWorkerResultsQueueReader
from petastorm.fs_utils import get_filesystem_and_path_or_paths
from petastorm.reader import Reader
from petastorm.workers_pool import EmptyResultError
from pyarrow.filesystem import DaskFileSystem

_WAITING = 10_000
"""Row groups that may wait to be read: as names alone, so that all of a table's may."""


class InOrderPool:
    """What `Reader` asks of a pool: it is handed a worker and a ventilator, which puts row groups in line."""

    workers_count = _WAITING

    def __init__(self) -> None:
        self._line: queue.SimpleQueue[tuple[tuple[Any, ...], dict[str, Any]]] = queue.SimpleQueue()
        self._read: list[Any] = []
        self._worker: Any = None
        self._ventilator: Any = None
        self.diagnostics: dict[str, Any] = {}

    def start(self, worker_class: Any, worker_args: Any = None, ventilator: Any = None) -> None:
        """Begin: the ventilator, a thread of petastorm's, fills the line."""
        self._worker = worker_class(0, self._read.append, worker_args)
        self._ventilator = ventilator
        ventilator.start()

    def ventilate(self, *args: Any, **kwargs: Any) -> None:
        """Put a row group in line."""
        self._line.put((args, kwargs))

    def get_results(self) -> Any:
        """The next row group's rows; `EmptyResultError` after the last one."""
        while not self._read:
            args, kwargs = self._next()
            self._worker.process(*args, **kwargs)
            self._ventilator.processed_item()
        return self._read.pop(0)

    def _next(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        while True:
            complete = self._ventilator.completed()  # asked first: what it put in line before that is there by now
            try:
                return self._line.get(block=not complete, timeout=0.01)
            except queue.Empty:
                if complete:
                    raise EmptyResultError from None

    def stop(self) -> None:
        """Put no more in line."""
        self._ventilator.stop()

    def join(self) -> None:
        """There is no thread of ours to wait for."""


class _Tables(ArrowReaderWorkerResultsQueueReader):  # type: ignore[misc]
    """Row groups as Arrow tables, where petastorm's own makes a Python object of every row."""

    def read_next(self, workers_pool: InOrderPool, schema: Any, ngram: Any) -> Any:
        """The next row group's table."""
        try:
            return workers_pool.get_results()
        except EmptyResultError:
            raise StopIteration from None


class _TableWorker(ArrowReaderWorker):  # type: ignore[misc]
    """Reads a row group, its rows as they stand: petastorm's own copies them in an order that is the same."""

    @staticmethod
    def new_results_queue_reader() -> _Tables:
        """What hands the tables out."""
        return _Tables()

    def _read_with_shuffle_row_drop(self, piece: Any, pq_file: Any, column_names: set[str], partition: Any) -> Any:
        return piece.read(columns=sorted(column_names), partitions=None)


class _Files(DaskFileSystem):  # type: ignore[misc]
    """A file system of fsspec in the form that petastorm's calls to pyarrow need: pyarrow's own of old."""

    def __init__(self, fs: AbstractFileSystem) -> None:
        self.fs = fs  # and nothing else: pyarrow's own would warn that it is old

    def isfile(self, path: str) -> bool:
        """Whether there is a file."""
        return bool(self.fs.isfile(path))


def open_reader(urls: Sequence[str], columns: Sequence[str]) -> Any:
    """A reader of some columns of Parquet files: an Arrow table a row group, in their order, once."""
    filesystem, paths = get_filesystem_and_path_or_paths(list(urls), hdfs_driver="libhdfs")
    if isinstance(filesystem, AbstractFileSystem):
        filesystem = _Files(filesystem)
    return Reader(
        filesystem,
        paths,
        schema_fields=list(columns),
        reader_pool=InOrderPool(),
        worker_class=_TableWorker,
        shuffle_row_groups=False,
        num_epochs=1,
        is_batched_reader=True,
    )
