"""Benchmark: training throughput on a busy machine with two cores.

Measures rows/s while two busy loops run, relative to rows/s without them. Training runs with and without the loops
alternate, each in a separate process. A value is the median of the ratios.

    python bench/beside_load.py [--turns 3]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from entries import make_entry
from synthetic_split import make_job
from training import launch_separately

from star_ctr.model.training.job import TrainingJob

LOOPS = 2
"""Number of busy loops."""
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(1_000_000): pass"
"""A program that keeps a core busy until it is killed or its parent process exits."""


class Case(NamedTuple):
    """A training run to measure.

    Attributes:
        batch_size: Rows per batch.
        model: Settings of the model.
        rows: Number of training rows.
        least: Minimum ratio of rows/s with load to rows/s without load.
    """

    batch_size: int
    model: dict[str, Any]
    rows: int
    least: float


CASES = [
    Case(
        128, {"layers": [256, 128, 64], "activation": "silu", "dim": 8, "dropout": 0.2}, 80_000, 0.5
    ),  # as in conf/kuairand.yaml
    Case(2000, {}, 100_000, 0.35),  # as in the paper
]


@contextmanager
def run_busy_loops(loops: int) -> Iterator[None]:
    """Run busy loops, each in its own process."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextmanager
def restrict_cores(number: int) -> Iterator[None]:
    """Restrict this process and its children to the first cores of the machine."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:number])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def train_under_load(job: TrainingJob, loops: int) -> dict[str, Any]:
    """Train a job while busy loops run, and return its training record."""
    with run_busy_loops(loops):
        launch_separately(job)
    record: dict[str, Any] = json.loads((job.path / "result.json").read_text(encoding="utf-8"))
    return record


def measure(folder: Path, case: Case, turns: int) -> dict[str, Any]:
    """Alternate training runs without and with load, and return the entry of bench.json."""
    job = make_job(
        folder, case.rows, domains=4, model=case.model, batch_size=case.batch_size, window_rows=16_384,
        norm_statistics_rows=0, minutes=1000.0,
    )  # fmt: skip
    without_load, with_load, threads = [], [], set()
    for turn in range(turns):
        for loops, rates in ((0, without_load), (LOOPS, with_load)):
            record = train_under_load(
                job.model_copy(update={"folder": str(folder / f"{turn}-{loops}-{job.run_id}")}), loops
            )
            rates.append(float(record["rows_per_second"]))
            threads.add(record["threads"])
    ratios = [b / a for a, b in zip(without_load, with_load, strict=True)]
    return make_entry(
        f"training_beside_load_{case.batch_size}", statistics.median(ratios), "ratio of rows/s", case.least,
        f"{LOOPS} busy loops on 2 cores, layers {job.model.layers}, {'/'.join(map(str, sorted(threads)))} thread(s); "
        f"ratios {' '.join(f'{r:.2f}' for r in ratios)}; rows/s without load "
        f"{' '.join(f'{r:,.0f}' for r in without_load)}, with load {' '.join(f'{r:,.0f}' for r in with_load)}",
        least=True,
    )  # fmt: skip


def run(turns: int = 3) -> list[dict[str, Any]]:
    """Return the entries of bench.json, one per batch size.

    Args:
        turns: The number of pairs of training runs, without and with load.
    """
    with tempfile.TemporaryDirectory() as name, restrict_cores(2):
        return [measure(Path(name), case, turns) for case in CASES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3, help="number of training runs without and with load each")
    for result in run(parser.parse_args().turns):
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
