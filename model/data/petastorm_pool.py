"""Petastorm's reader with a pool that loses nothing and waits for nothing.

The pools that come with it either lose rows (threads) or, with one thread, look for work every tenth of a second, which
is longer than a small file takes. Any pool can be handed to `petastorm.reader.Reader`; ours decodes some row groups
ahead, each in a thread, and hands them out in the order of the files.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
    """What `Reader` asks of a pool: it is handed a worker and a ventilator, which puts row groups in line.

    At most `threads` row groups are decoded, or wait decoded, at a time.
    """

    workers_count = _WAITING

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._line: queue.SimpleQueue[tuple[tuple[Any, ...], dict[str, Any]]] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[tuple[Any, list[Any]]] = queue.SimpleQueue()
        self._ahead: deque[Future[list[Any]]] = deque()
        self._read: list[Any] = []
        self._executor: ThreadPoolExecutor | None = None
        self._ventilator: Any = None
        self.diagnostics: dict[str, Any] = {}

    def start(self, worker_class: Any, worker_args: Any = None, ventilator: Any = None) -> None:
        """Begin: the ventilator, a thread of petastorm's, fills the line."""
        for number in range(self._threads):  # a worker serves one thread at a time
            read: list[Any] = []
            self._free.put((worker_class(number, read.append, worker_args), read))
        self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")
        self._ventilator = ventilator
        ventilator.start()

    def ventilate(self, *args: Any, **kwargs: Any) -> None:
        """Put a row group in line."""
        self._line.put((args, kwargs))

    def get_results(self) -> Any:
        """The next row group's rows; `EmptyResultError` after the last one."""
        assert self._executor is not None
        while not self._read:
            while len(self._ahead) < self._threads and (item := self._next()) is not None:
                self._ahead.append(self._executor.submit(self._decode, *item))
            if not self._ahead:
                raise EmptyResultError
            self._read = self._ahead.popleft().result()
            self._ventilator.processed_item()
        return self._read.pop(0)

    def _decode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        worker, read = self._free.get()
        try:
            worker.process(*args, **kwargs)
            return list(read)
        finally:
            read.clear()
            self._free.put((worker, read))

    def _next(self) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        while True:
            complete = self._ventilator.completed()  # asked first: what it put in line before that is there by now
            try:
                return self._line.get(block=not complete, timeout=0.01)
            except queue.Empty:
                if complete:
                    return None

    def stop(self) -> None:
        """Put no more in line."""
        self._ventilator.stop()

    def join(self) -> None:
        """Wait for what is being decoded, and drop what nobody asked for."""
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)


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


def open_reader(urls: Sequence[str], columns: Sequence[str], threads: int = 1) -> Any:
    """A reader of some columns of Parquet files: an Arrow table a row group, in their order, once."""
    filesystem, paths = get_filesystem_and_path_or_paths(list(urls), hdfs_driver="libhdfs")
    if isinstance(filesystem, AbstractFileSystem):
        filesystem = _Files(filesystem)
    return Reader(
        filesystem,
        paths,
        schema_fields=list(columns),
        reader_pool=InOrderPool(threads),
        worker_class=_TableWorker,
        shuffle_row_groups=False,
        num_epochs=1,
        is_batched_reader=True,
    )
