"""Training throughput on a busy machine: rows/s next to two busy loops, relative to rows/s without them, on two cores.

Training runs with and without the loops alternate, each in its own process. A value is the median of the ratios.

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

from entries import entry
from made_split import job_of
from training import launch_alone

from star_ctr.model.training.job import TrainingJob

LOOPS = 2
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(1_000_000): pass"
"""A program that keeps a core busy until it is killed or its parent process exits."""


class Case(NamedTuple):
    """A training to measure, and the minimum ratio."""

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
def busy(loops: int) -> Iterator[None]:
    """Run busy loops, each in its own process."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextmanager
def on_cores(number: int) -> Iterator[None]:
    """Restrict this process and its children to the first cores of the machine."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:number])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def train_beside(job: TrainingJob, loops: int) -> dict[str, Any]:
    """Train a job next to busy loops; returns its record."""
    with busy(loops):
        launch_alone(job)
    record: dict[str, Any] = json.loads((job.path / "result.json").read_text(encoding="utf-8"))
    return record


def measure(folder: Path, case: Case, turns: int) -> dict[str, Any]:
    """Alternate training runs without and with load; returns the entry for bench.json."""
    job = job_of(
        folder, case.rows, domains=4, model=case.model, batch_size=case.batch_size, window_rows=16_384,
        norm_statistics_rows=0, minutes=1000.0,
    )  # fmt: skip
    alone, beside, threads = [], [], set()
    for turn in range(turns):
        for loops, rates in ((0, alone), (LOOPS, beside)):
            record = train_beside(
                job.model_copy(update={"folder": str(folder / f"{turn}-{loops}-{job.run_id}")}), loops
            )
            rates.append(float(record["rows_per_second"]))
            threads.add(record["threads"])
    ratios = [b / a for a, b in zip(alone, beside, strict=True)]
    return entry(
        f"training_beside_load_{case.batch_size}", statistics.median(ratios), "times its rows/s", case.least,
        f"{LOOPS} busy loops on 2 cores, layers {job.model.layers}, {'/'.join(map(str, sorted(threads)))} thread(s); "
        f"ratios {' '.join(f'{r:.2f}' for r in ratios)}; alone {' '.join(f'{r:,.0f}' for r in alone)}, "
        f"beside {' '.join(f'{r:,.0f}' for r in beside)} rows/s",
        least=True,
    )  # fmt: skip


def run(turns: int = 3) -> list[dict[str, Any]]:
    """Return the entries for bench.json, one per batch size."""
    with tempfile.TemporaryDirectory() as name, on_cores(2):
        return [measure(Path(name), case, turns) for case in CASES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    for result in run(parser.parse_args().turns):
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
