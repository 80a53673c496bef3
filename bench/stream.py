"""Benchmark: the data loader of the trainer.

Measures the time that the trainer waits for data, the throughput compared with pyarrow, and the growth of memory.

Rows have eight ids, twenty numbers and two sequences of length 50 (at least 840 bytes). Files have at most 16,384 rows
of one of 19 domains.

    python bench/stream.py
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from entries import make_entry
from synthetic_split import make_job

from star_ctr.model.data.batch_order import DataFile
from star_ctr.model.data.batches import iter_epoch
from star_ctr.model.data.reader import list_live_files
from star_ctr.model.training.callbacks.record import TimeSpent
from star_ctr.model.training.job import TrainingJob
from star_ctr.model.training.trainer import Trainer

ROWS = 200_000
COLUMNS = ["label", "domain_id", "ints", "floats"]


def list_files(job: TrainingJob) -> list[DataFile]:
    """List the training files of a job."""
    return list_live_files(job.split, job.versions["split"], job.train_partitions, job.layout)


def iter_batches(job: TrainingJob, files: list[DataFile], epoch: int = 0) -> Iterator[Any]:
    """Iterate over the batches of the data loader: shuffled, 2000 rows of one domain per batch."""
    return iter_epoch(files, job.layout, 2000, job.trainer.data.window_rows, 0, epoch)


def plain_batches(job: TrainingJob, files: list[DataFile]) -> Iterator[tuple[Any, ...]]:
    """Read files in order with pyarrow alone, and yield their columns as matrices without a copy."""
    for file in files:
        table = pq.read_table(file.url, columns=COLUMNS, use_threads=False, partitioning=None)
        ints, floats = (
            np.frombuffer(table[name].combine_chunks().buffers()[2], dtype=kind).reshape(len(table), width)
            for name, kind, width in (
                ("ints", np.int32, job.layout.int_count),
                ("floats", np.float32, job.layout.float_count),
            )
        )
        yield ints, floats, table["label"].to_numpy(), table["domain_id"].to_numpy()


def time_iteration(make: Callable[[], Iterator[Any]]) -> float:
    """Return the seconds that a complete iteration takes.

    Args:
        make: A function that returns the iterator.
    """
    start = time.perf_counter()
    for _ in make():
        pass
    return time.perf_counter() - start


def measure_waiting(job: TrainingJob) -> tuple[float, float]:
    """Train a job, and return the share of the time spent waiting for data, and the rows/s."""
    spent = TimeSpent()
    Trainer(job).train([spent])
    return spent.total.waiting_share, spent.total.rate


def read_resident_memory() -> float:
    """Return the resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure_memory(folder: str, times: int, epochs: int) -> None:
    """Iterate over the data, and print the maximum resident memory of each epoch in MiB as JSON.

    Args:
        folder: The folder of the split.
        times: The number of times that each file is part of an epoch.
        epochs: The number of epochs.
    """
    job = make_job(Path(folder), ROWS)
    files = list_files(job)
    many = []
    for k in range(times):
        for file in files:
            path = Path(file.url)
            link = path.with_name(f"again-{k}-{path.name}")
            if k and not link.exists():
                os.link(path, link)
            many.append(DataFile(str(link) if k else file.url, file.domain, file.rows, file.key))
    print(json.dumps([max(read_resident_memory() for _ in iter_batches(job, many, epoch)) for epoch in range(epochs)]))


def measure_memory_alone(folder: Path, times: int, epochs: int) -> list[float]:
    """Run `measure_memory` in a separate process, and return the maximum memory of each epoch in MiB."""
    command = [sys.executable, __file__, "--memory", str(folder), str(times), str(epochs)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    return [float(x) for x in json.loads(done.stdout.splitlines()[-1])]


def run() -> list[dict[str, Any]]:
    """Measure the data loader, and return the entries of bench.json."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = make_job(folder, ROWS)
        files = list_files(job)
        pa.set_cpu_count(1)
        stream, plain = [], []
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cores)})  # the stream decodes in a separate thread
        for _ in range(5):
            stream.append(time_iteration(lambda: iter_batches(job, files)))
            plain.append(time_iteration(lambda: plain_batches(job, files)))
        os.sched_setaffinity(0, cores)
        ratio = statistics.median(plain) / statistics.median(stream)
        epochs, tenfold = measure_memory_alone(folder, 1, 20), measure_memory_alone(folder, 10, 1)[0]
        first, last = max(epochs[:10]), max(epochs[10:])
        growth = max(tenfold, last) / first - 1
        deep, rate = measure_waiting(job)
        shallow, shallow_rate = measure_waiting(make_job(folder, ROWS, model={"layers": [64, 32]}))
    return [
        make_entry("stream_wait_share", deep, "share of time", 0.05,
              f"the default model, {rate:,.0f} rows/s; with layers (64, 32): {shallow:.3f} at {shallow_rate:,.0f} rows/s"),
        make_entry("stream_vs_pyarrow", ratio, "ratio of rows/s", 0.5,
              f"pyarrow alone on one core: {ROWS / statistics.median(plain):,.0f} rows/s, not shuffled and without copies",
              least=True),
        make_entry("stream_memory_growth", growth, "relative growth", 0.1,
              f"maximum {first:.0f} MiB in ten epochs of {ROWS:,} rows, {last:.0f} MiB in the next ten, {tenfold:.0f} MiB "
              "in an epoch with ten times as many rows"),
    ]  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        measure_memory(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        for result in run():
            print(json.dumps(result, indent=1))
