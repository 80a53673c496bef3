"""A Petastorm reader with a worker pool that returns all row groups in order.

Petastorm's thread pool loses rows. Its single-threaded pool looks for new work only ten times a second, which takes
longer than reading a small file. `petastorm.reader.Reader` accepts any pool. `InOrderPool` decodes a few row groups
ahead, one per thread, and returns them in the order of the files.
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

_MAX_QUEUED = 10_000
"""Row groups that may wait in the queue.

Only their names are queued, so that the queue may hold all row groups of a table.
"""


class InOrderPool:
    """A worker pool for `petastorm.reader.Reader`.

    `Reader` passes a worker class and a ventilator to the pool. The ventilator is a Petastorm thread that queues row
    groups. At most `threads` row groups are being decoded or wait decoded at any time.
    """

    workers_count = _MAX_QUEUED

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._queue: queue.SimpleQueue[tuple[tuple[Any, ...], dict[str, Any]]] = queue.SimpleQueue()
        self._idle_workers: queue.SimpleQueue[tuple[Any, list[Any]]] = queue.SimpleQueue()
        self._decoding: deque[Future[list[Any]]] = deque()
        self._results: list[Any] = []
        self._executor: ThreadPoolExecutor | None = None
        self._ventilator: Any = None
        self.diagnostics: dict[str, Any] = {}

    def start(self, worker_class: Any, worker_args: Any = None, ventilator: Any = None) -> None:
        """Create the workers and start the ventilator, which fills the queue."""
        for number in range(self._threads):  # a worker must not be used by two threads at the same time
            results: list[Any] = []
            self._idle_workers.put((worker_class(number, results.append, worker_args), results))
        self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")
        self._ventilator = ventilator
        ventilator.start()

    def ventilate(self, *args: Any, **kwargs: Any) -> None:
        """Add a row group to the queue."""
        self._queue.put((args, kwargs))

    def get_results(self) -> Any:
        """Return the rows of the next row group.

        Raises:
            EmptyResultError: All row groups have been returned.
        """
        assert self._executor is not None
        while not self._results:
            while len(self._decoding) < self._threads and (item := self._next()) is not None:
                self._decoding.append(self._executor.submit(self._decode, *item))
            if not self._decoding:
                raise EmptyResultError
            self._results = self._decoding.popleft().result()
            self._ventilator.processed_item()
        return self._results.pop(0)

    def _decode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """Decode a row group with an idle worker."""
        worker, results = self._idle_workers.get()
        try:
            worker.process(*args, **kwargs)
            return list(results)
        finally:
            results.clear()
            self._idle_workers.put((worker, results))

    def _next(self) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Return the next row group of the queue; None after the last one."""
        while True:
            # Check this before the queue: everything that a completed ventilator queued is then in the queue.
            is_complete = self._ventilator.completed()
            try:
                return self._queue.get(block=not is_complete, timeout=0.01)
            except queue.Empty:
                if is_complete:
                    return None

    def stop(self) -> None:
        """Stop adding row groups to the queue."""
        self._ventilator.stop()

    def join(self) -> None:
        """Wait for row groups that are being decoded, and drop those that are still queued."""
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)


class _TableQueueReader(ArrowReaderWorkerResultsQueueReader):  # type: ignore[misc]
    """A reader of results that returns row groups as Arrow tables.

    Petastorm's base class creates a Python object for every row.
    """

    def read_next(self, workers_pool: InOrderPool, schema: Any, ngram: Any) -> Any:
        """Return the table of the next row group."""
        try:
            return workers_pool.get_results()
        except EmptyResultError:
            raise StopIteration from None


class _TableWorker(ArrowReaderWorker):  # type: ignore[misc]
    """A worker that reads a row group without copying its rows.

    Petastorm's base class copies the rows into a new order, even if that order is the same.
    """

    @staticmethod
    def new_results_queue_reader() -> _TableQueueReader:
        """Return the reader for the results of this worker."""
        return _TableQueueReader()

    def _read_with_shuffle_row_drop(self, piece: Any, pq_file: Any, column_names: set[str], partition: Any) -> Any:
        return piece.read(columns=sorted(column_names), partitions=None)


class _LegacyFileSystem(DaskFileSystem):  # type: ignore[misc]
    """An fsspec file system with the legacy pyarrow interface that Petastorm calls."""

    def __init__(self, fs: AbstractFileSystem) -> None:
        self.fs = fs  # without super().__init__(), which warns that the class is deprecated

    def isfile(self, path: str) -> bool:
        """Return whether a path is a file."""
        return bool(self.fs.isfile(path))


def open_reader(urls: Sequence[str], columns: Sequence[str], threads: int = 1) -> Any:
    """Open a Petastorm reader of Parquet files.

    Args:
        urls: URLs of the files, or absolute paths.
        columns: Columns to read.
        threads: Number of decoding threads.

    Returns:
        A reader that returns each row group once, as an Arrow table, in the order of the files.
    """
    if "://" in urls[0]:
        filesystem, paths = get_filesystem_and_path_or_paths(list(urls), hdfs_driver="libhdfs")
    else:  # petastorm would misread characters such as `#` in a URL
        filesystem, _ = get_filesystem_and_path_or_paths(["file:///"], hdfs_driver="libhdfs")
        paths = list(urls)
    if isinstance(filesystem, AbstractFileSystem):
        filesystem = _LegacyFileSystem(filesystem)
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
