"""The batches of an epoch, from any of them on: a pure function of the files, the seed and the epoch.

Neither the pace of the reader nor the number of processes changes their order. Reading, decoding and shuffling
run in a thread of their own, some batches ahead of the trainer.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch

from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.errors import DataError
from star_ctr.model.data.batch_order import MIXED, DataFile, Draw, Read, make_generator, plan_epoch
from star_ctr.model.data.reader import Rows, concat_rows, read_files
from star_ctr.model.data.shuffle_window import Window

AHEAD = 8
"""Batches made ahead of the trainer."""


@dataclass
class Batch:
    """A batch of one domain, or MIXED: then its rows are sorted by domain. `file` is the number of each row's file."""

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
) -> Iterator[Batch]:
    """The batches of one epoch, every row of the files once: made in the calling thread, decoded in `readers` others.

    With `start`, those from that number on, the same as ever: what came before is not read but for the rows
    that the windows still hold.
    """
    steps = list(plan_epoch(files, batch_size, window_rows, seed, epoch, mixed))
    random = make_generator(seed, epoch, 1)
    done = _find_position(steps, start)
    held = _replay_draws(files, steps[:done], random, mixed)
    needed = sorted({int(f) for ids in held.values() for f in np.unique(ids[0])})
    arriving = read_files(
        [files[f] for f in chain(needed, (s.file for s in steps[done:] if isinstance(s, Read)))],
        layout,
        readers=readers,
    )
    windows = _fill_windows(held, needed, arriving)
    for step in steps[done:]:
        match step:
            case Read(file):
                window = windows.setdefault(MIXED if mixed else files[file].domain, Window())
                _add(window, next(arriving), np.full(files[file].rows, file, dtype=np.int32))
            case Draw(domain, n):
                ints, floats, label, domains, numbers = windows[domain].draw(n, random)
                rows = Rows(ints, floats, label, domains)
                if mixed:
                    order = np.argsort(domains, kind="stable")
                    rows, numbers = rows.part(order), numbers[order]
                yield Batch(domain, rows, numbers)
    if next(arriving, None) is not None:
        raise DataError("the stream has rows left after its last batch")


def _find_position(steps: Sequence[Read | Draw], batches: int) -> int:
    """The number of steps after which so many batches were drawn."""
    draws = np.flatnonzero([isinstance(s, Draw) for s in steps])
    return 0 if batches == 0 else int(draws[batches - 1]) + 1


def _replay_draws(
    files: Sequence[DataFile], steps: Sequence[Read | Draw], random: np.random.Generator, mixed: bool
) -> dict[int, list[npt.NDArray[np.int32]]]:
    """What each domain's window holds after some steps, as (file, row in it): the draws are made on these alone."""
    windows: dict[int, Window] = {}
    for step in steps:
        match step:
            case Read(file):
                n = files[file].rows
                window = windows.setdefault(MIXED if mixed else files[file].domain, Window())
                window.add(np.full(n, file, dtype=np.int32), np.arange(n, dtype=np.int32))
            case Draw(domain, n):
                windows[domain].draw(n, random)
    return {p: window.held() for p, window in windows.items() if len(window)}


def _fill_windows(
    held: dict[int, list[npt.NDArray[np.int32]]], needed: Sequence[int], arriving: Iterator[Rows]
) -> dict[int, Window]:
    """Windows of the rows that `held` names, out of the first files that arrive: the `needed` ones."""
    kept: dict[int, tuple[list[Rows], list[npt.NDArray[np.int64]]]] = {p: ([], []) for p in held}
    for file in needed:
        rows = next(arriving)
        for p, (numbers, places) in held.items():
            if len(at := np.flatnonzero(numbers == file)):
                kept[p][0].append(rows.part(places[at]))
                kept[p][1].append(at)
    windows = {}
    for p, (parts, ats) in kept.items():
        windows[p] = Window()
        _add(windows[p], concat_rows(parts).part(np.argsort(np.concatenate(ats))), held[p][0])
    return windows


def _add(window: Window, rows: Rows, numbers: npt.NDArray[np.int32]) -> None:
    window.add(rows.ints, rows.floats, rows.label, rows.domain, numbers)


def _pin_memory(batch: Batch) -> Batch:
    rows = batch.rows
    ints, floats, label = (torch.from_numpy(a).pin_memory().numpy() for a in (rows.ints, rows.floats, rows.label))
    return Batch(batch.domain, Rows(ints, floats, label, rows.domain), batch.file)


def prefetch(batches: Iterator[Batch], depth: int = AHEAD, pin: bool = False) -> Generator[Batch]:
    """The same batches, made in a thread of their own up to `depth` ahead; its errors are raised here.

    With `pin` their rows lie in pinned memory, from which a GPU takes them while it computes.
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
        except BaseException as error:  # handed to the consumer, which raises it
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
