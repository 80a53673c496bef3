"""A pool of processes for training runs; each process executes one run at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager

from star_ctr.model.distributed.process_lifetime import end_with_parent

EXPERIMENT_SETTINGS = {
    "trainer.threads": 1,
    "trainer.processes": 1,
    "trainer.checkpoint.resume": "auto",
    # Only some models have scores of earlier nights. This also gives a run another id than that of the nightly run.
    "trainer.calibration.method": "none",
}
"""Settings of all training runs of an experiment, by key. With small batches, a second thread would not help."""


@contextmanager
def open_pool(jobs: int) -> Iterator[Executor]:
    """Start a pool of processes. If the block is left by an error, they are stopped at once.

    Args:
        jobs: The number of processes.

    Yields:
        The pool.
    """
    # Spawn a new interpreter: a fork of a process with threads of Spark and torch may hang.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_prepare, initargs=(os.getpid(),))
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.kill()
        raise
    pool.shutdown()


def _prepare(parent: int) -> None:
    # Ctrl-C reaches all processes of a terminal; this process is stopped by its parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(parent)
