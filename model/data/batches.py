"""The batches of an epoch, starting at any of them, as a pure function of the files, the seed and the epoch.

Neither the speed of the data loader nor the number of processes changes the order of batches. `iter_epoch` executes the
plan of `batch_order`. To start in the middle of an epoch, it replays the earlier draws on row positions alone. It then
reads the files whose rows are still in a window, and the files that follow. `prefetch` runs the iterator in a
background thread, ahead of the trainer.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from star_ctr.conf.contracts.domains import MIXED
from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.errors import DataError
from star_ctr.model.data.batch_order import DataFile, Draw, Read, make_generator, plan_epoch
from star_ctr.model.data.new_ids import NewIds
from star_ctr.model.data.reader import Rows, concat_rows, read_files
from star_ctr.model.data.shuffle_window import Window

PREFETCH_BATCHES = 8
"""Default number of batches that are prepared ahead of the trainer."""


@dataclass
class Batch:
    """A batch of rows.

    Attributes:
        domain: Domain number of all rows, or `MIXED`. Rows of a mixed batch are sorted by domain.
        rows: The rows.
        file: Index of each row's file.
    """

    domain: int
    rows: Rows
    file: npt.NDArray[np.int32]


def iter_epoch(
    files: Sequence[DataFile],
    layout: Layout,
    batch_size: int,
    window_rows: int,
    seed: int,
    epoch: int,
    mixed: bool = False,
    start: int = 0,
    readers: int = 1,
    new_ids: NewIds | None = None,
) -> Iterator[Batch]:
    """Iterate over the batches of one epoch, which contain every row of the files once.

    Batches are assembled in the calling thread. Files are decoded in other threads.

    Args:
        files: Files of one version of the split.
        layout: Layout of the encoded rows.
        batch_size: Maximum number of rows per batch.
        window_rows: Rows in the shuffled sliding windows of all domains together (§4.4).
        seed: Training seed.
        epoch: Number of the epoch, from 0.
        mixed: Mix the rows of all domains in each batch.
        start: Index of the first batch to return. This batch and all later ones are the same for every `start`. Of the
            files before it, only those with rows that are still in a window are read.
        readers: Number of decoding threads.
        new_ids: The first day of each id, to mask new ids; None to mask none.

    Yields:
        The batches.

    Raises:
        DataError: The number of rows read differs from the number of rows in the files.
    """
    steps = list(plan_epoch(files, batch_size, window_rows, seed, epoch, mixed))
    random = make_generator(seed, epoch, 1)
    first = _find_position(steps, start)
    in_windows = _replay_draws(files, steps[:first], random, mixed)
    needed = sorted({int(f) for columns in in_windows.values() for f in np.unique(columns[0])})
    order_of_files = [*needed, *(s.file for s in steps[first:] if isinstance(s, Read))]
    arriving = read_files([files[f] for f in order_of_files], layout, days=new_ids is not None, readers=readers)
    if new_ids is not None:
        # Masks depend only on seed, epoch and file, not on where the epoch starts.
        arriving = (
            new_ids.mask(rows, make_generator(seed, epoch, 2, file))
            for file, rows in zip(order_of_files, arriving, strict=True)
        )
    windows = _fill_windows(in_windows, needed, arriving)
    for step in steps[first:]:
        match step:
            case Read(file):
                window = windows.setdefault(MIXED if mixed else files[file].domain, _RowWindow())
                window.add_rows(next(arriving), np.full(files[file].rows, file, dtype=np.int32))
            case Draw(domain, n):
                rows, numbers = windows[domain].draw_rows(n, random)
                if mixed:
                    order = np.argsort(rows.domain, kind="stable")
                    rows, numbers = rows.part(order), numbers[order]
                yield Batch(domain, rows, numbers)
    if next(arriving, None) is not None:
        raise DataError("internal error: the reader returned a file that is not in the plan of the epoch")


class _RowWindow(Window):
    """A window of rows, each with the index of its file."""

    def __init__(self) -> None:
        super().__init__()
        self._names: list[str] = []

    def add_rows(self, rows: Rows, numbers: npt.NDArray[np.int32]) -> None:
        """Append rows, and the indices of their files."""
        self._names = list(rows.columns)
        self.add(*rows.columns.values(), numbers)

    def draw_rows(self, n: int, random: np.random.Generator) -> tuple[Rows, npt.NDArray[np.int32]]:
        """Remove random rows from the window; returns them and the indices of their files."""
        *columns, numbers = self.draw(n, random)
        return Rows(**dict(zip(self._names, columns, strict=True))), numbers


def _find_position(steps: Sequence[Read | Draw], batches: int) -> int:
    """Return the number of steps that draw the first `batches` batches."""
    draws = np.flatnonzero([isinstance(s, Draw) for s in steps])
    return 0 if batches == 0 else int(draws[batches - 1]) + 1


def _replay_draws(
    files: Sequence[DataFile], steps: Sequence[Read | Draw], random: np.random.Generator, mixed: bool
) -> dict[int, list[npt.NDArray[np.int32]]]:
    """Replay steps on row positions, without reading any file.

    Returns:
        For each domain with rows left in its window, two arrays: the file index of each row, and its position in the
        file.
    """
    windows: dict[int, Window] = {}
    for step in steps:
        match step:
            case Read(file):
                n = files[file].rows
                window = windows.setdefault(MIXED if mixed else files[file].domain, Window())
                window.add(np.full(n, file, dtype=np.int32), np.arange(n, dtype=np.int32))
            case Draw(domain, n):
                windows[domain].draw(n, random)
    return {p: window.list_columns() for p, window in windows.items() if len(window)}


def _fill_windows(
    in_windows: dict[int, list[npt.NDArray[np.int32]]], needed: Sequence[int], arriving: Iterator[Rows]
) -> dict[int, _RowWindow]:
    """Return windows with the rows that `_replay_draws` found, taken from the first files of `arriving`.

    Args:
        in_windows: The result of `_replay_draws`.
        needed: Indices of the files with these rows, in the order in which they arrive.
        arriving: The rows of each file.
    """
    found: dict[int, tuple[list[Rows], list[npt.NDArray[np.int64]]]] = {p: ([], []) for p in in_windows}
    for file in needed:
        rows = next(arriving)
        for p, (numbers, positions) in in_windows.items():
            if len(slots := np.flatnonzero(numbers == file)):
                found[p][0].append(rows.part(positions[slots]))
                found[p][1].append(slots)
    windows = {}
    for p, (parts, slots_by_file) in found.items():
        windows[p] = _RowWindow()
        windows[p].add_rows(concat_rows(parts).part(np.argsort(np.concatenate(slots_by_file))), in_windows[p][0])
    return windows


def _pin_memory(batch: Batch) -> Batch:
    """Copy the rows of a batch to pinned memory."""
    columns = batch.rows.columns
    pinned = {name: torch.from_numpy(a).pin_memory().numpy() for name, a in columns.items() if name != "domain"}
    return Batch(batch.domain, Rows(**columns | pinned), batch.file)


def prefetch(batches: Iterator[Batch], depth: int = PREFETCH_BATCHES, pin: bool = False) -> Generator[Batch]:
    """Iterate over batches that a background thread prepares.

    Args:
        batches: The batches; this iterator runs in the background thread.
        depth: Maximum number of batches that are ready and not yet consumed.
        pin: Copy rows to pinned memory, so that a GPU can fetch them while it computes.

    Yields:
        The same batches.

    Raises:
        Exception: Any error of `batches` is raised in the calling thread.
    """
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(item: Batch | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for batch in batches:
                if not put(_pin_memory(batch) if pin else batch):
                    return
            put(None)
        except BaseException as error:  # the consumer raises it
            put(error)

    thread = threading.Thread(target=work, name="stream", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join(timeout=10)
