"""The stream: how long the trainer waits for it, how it compares with plain reading, and whether its memory grows.

Rows have eight ids, twenty numbers and two 50-long sequences (840 bytes and more); files are of 16,384 rows, 19 domains.

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
from entries import entry
from made_split import job_of

from star_ctr.model.data.batch_order import DataFile
from star_ctr.model.data.batches import iter_epoch
from star_ctr.model.data.reader import list_live_files
from star_ctr.model.training.callbacks.record import TimeSpent
from star_ctr.model.training.job import TrainingJob
from star_ctr.model.training.trainer import Trainer

ROWS = 200_000
COLUMNS = ["label", "domain_id", "ints", "floats"]


def files_of(job: TrainingJob) -> list[DataFile]:
    """The training files of a job."""
    return list_live_files(job.split, job.versions["split"], job.ds, "train", job.layout)


def batches_of(job: TrainingJob, files: list[DataFile], epoch: int = 0) -> Iterator[Any]:
    """The stream's own batches: shuffled, of one domain each, 2000 rows."""
    return iter_epoch(files, job.layout, 2000, job.trainer.data.window_rows, 0, epoch)


def plain_batches(job: TrainingJob, files: list[DataFile]) -> Iterator[tuple[Any, ...]]:
    """Files read by pyarrow alone, in their order, and their columns seen as matrices without a copy."""
    for file in files:
        table = pq.read_table(file.url.removeprefix("file://"), columns=COLUMNS, use_threads=False, partitioning=None)
        ints, floats = (
            np.frombuffer(table[name].combine_chunks().buffers()[2], dtype=kind).reshape(len(table), width)
            for name, kind, width in (("ints", np.int32, job.layout.ints), ("floats", np.float32, job.layout.floats))
        )
        yield ints, floats, table["label"].to_numpy(), table["domain_id"].to_numpy()


def seconds(make: Callable[[], Iterator[Any]]) -> float:
    """How long it takes to go through what is made."""
    began = time.perf_counter()
    for _ in make():
        pass
    return time.perf_counter() - began


def waiting(job: TrainingJob) -> tuple[float, float]:
    """The share of a training's time that it waits for data, and its rows a second."""
    spent = TimeSpent()
    Trainer(job).train([spent])
    return spent.total.waiting_share, spent.total.rate


def resident() -> float:
    """Megabytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure_memory(folder: str, times: int, epochs: int) -> None:
    """Stream the data so many `times` over as one epoch, for some epochs; print the largest memory in each."""
    job = job_of(Path(folder), ROWS)
    files = files_of(job)
    many = []
    for k in range(times):
        for file in files:
            path = Path(file.url.removeprefix("file://"))
            link = path.with_name(f"again-{k}-{path.name}")
            if k and not link.exists():
                os.link(path, link)
            many.append(DataFile(f"file://{link}" if k else file.url, file.domain, file.rows, file.key))
    print(json.dumps([max(resident() for _ in batches_of(job, many, epoch)) for epoch in range(epochs)]))


def memory(folder: Path, times: int, epochs: int) -> list[float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--memory", str(folder), str(times), str(epochs)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    return [float(x) for x in json.loads(done.stdout.splitlines()[-1])]


def run() -> list[dict[str, Any]]:
    """The entries of bench.json."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = job_of(folder, ROWS)
        files = files_of(job)
        pa.set_cpu_count(1)
        ours, plain = [], []
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cores)})  # ours decodes in a thread of its own
        for _ in range(5):
            ours.append(seconds(lambda: batches_of(job, files)))
            plain.append(seconds(lambda: plain_batches(job, files)))
        os.sched_setaffinity(0, cores)
        ratio = statistics.median(plain) / statistics.median(ours)
        epochs, tenfold = memory(folder, 1, 20), memory(folder, 10, 1)[0]
        first, last = max(epochs[:10]), max(epochs[10:])
        growth = max(tenfold, last) / first - 1
        deep, rate = waiting(job)
        shallow, shallow_rate = waiting(job_of(folder, ROWS, model={"layers": [64, 32]}))
    return [
        entry("stream_wait_share", deep, "of the time", 0.05,
              f"the default model, {rate:,.0f} rows/s; of two layers (64, 32): {shallow:.3f} at {shallow_rate:,.0f} rows/s"),
        entry("stream_vs_pyarrow", ratio, "times its rows/s", 0.5,
              f"pyarrow alone, one core: {ROWS / statistics.median(plain):,.0f} rows/s, unshuffled and without copies",
              least=True),
        entry("stream_memory_growth", growth, "of the memory", 0.1,
              f"at most {first:.0f} MB in ten epochs of {ROWS:,} rows, {last:.0f} in the next ten, {tenfold:.0f} in one of "
              "ten times as many rows"),
    ]  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        measure_memory(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        for result in run():
            print(json.dumps(result, indent=1))
