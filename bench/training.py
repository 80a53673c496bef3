"""The trainer: large tables, two processes, and trainings that are killed.

python bench/training.py [--kills 20]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from entries import entry
from made_split import job_of, layout_of

from star_ctr.model.cost import time_in_turns
from star_ctr.model.data.batches import Batch
from star_ctr.model.data.reader import Rows
from star_ctr.model.train import launch, write_job
from star_ctr.model.training.job import TrainingJob
from star_ctr.model.training.trainer import Trainer

PAIRED = 800_000
"""Rows of the trainings of one and of two processes: half a minute, so that what is not of the steady state counts little.

That is the filling of the first windows, and the last, short batches of the domains, which two processes wait for.
"""
DISTINCT = 20_000
"""Ids of a table that batches draw from, whatever its size."""


def trainer_of(folder: Path, vocabulary: int) -> Trainer:
    """A trainer whose first table has that many rows and the others few."""
    job = job_of(folder, 2000, domains=2)
    sizes = {name: vocabulary if name == "f0" else 1000 for name in job.layout.embeddings}
    return Trainer(job.model_copy(update={"layout": job.layout.model_copy(update={"embeddings": sizes})}))


def batch_of(vocabulary: int, seed: int) -> Batch:
    """2000 rows of domain 1 with ids from the same number of distinct ones, spread over the table."""
    layout, rng = layout_of(domains=2), np.random.default_rng(seed)
    ints = rng.integers(2, 1000, (2000, layout.ints))
    places = np.linspace(2, vocabulary - 1, DISTINCT).astype(np.int64)
    ints[:, 0] = places[rng.integers(0, DISTINCT, 2000)]
    for sequence, offset in layout.iter_sequence_offsets():
        ints[:, offset] = sequence.length
        first = sequence.iter_offsets(offset)[0][1]
        ints[:, first : first + sequence.length] = places[rng.integers(0, DISTINCT, (2000, sequence.length))]
    floats = rng.normal(size=(2000, layout.floats)).astype(np.float32)
    label = (rng.random(2000) < 0.1).astype(np.float32)
    rows = Rows(ints.astype(np.int32), floats, label, np.ones(2000, dtype=np.int32))
    return Batch(1, rows, np.zeros(2000, dtype=np.int32))


def table_size(folder: Path, rounds: int = 30) -> dict[str, Any]:
    """A step with ten million embedding rows against one with a hundred thousand."""
    steps = {}
    for vocabulary in (100_000, 10_000_000):
        trainer = trainer_of(folder, vocabulary)
        batches = [batch_of(vocabulary, k) for k in range(4)]
        steps[vocabulary] = lambda k, t=trainer, b=batches: t.train_step([b[k % 4]])
    ms = time_in_turns(steps, rounds)
    return entry(
        "step_10m_vs_100k_rows", ms[10_000_000] / ms[100_000], "times as long", 1.3,
        f"the default model, {DISTINCT:,} ids in use; with 100,000 rows {ms[100_000]:.0f} ms",
    )  # fmt: skip


def rate(job: TrainingJob, cores: set[int]) -> float:
    """Rows a second of a training on some cores, by its record."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        launch_alone(job)
    finally:
        os.sched_setaffinity(0, before)
    return float(json.loads((job.path / "result.json").read_text())["rows_per_second"])


def launch_alone(job: TrainingJob) -> None:
    """Train in processes of their own, one too."""
    if job.trainer.processes > 1:
        launch(job)
    else:
        subprocess.run(command_of(job), check=True, stderr=subprocess.DEVNULL)


def command_of(job: TrainingJob) -> list[str]:
    """What trains a job in one process."""
    return [sys.executable, "-m", "star_ctr.model.train", str(write_job(job))]


def two_processes(folder: Path) -> dict[str, Any]:
    """Two processes on two cores with a batch each, in three turns with one on one core; beside them, once, other ways.

    Each is set against the mean of the trainings of one process before and after it.
    """
    cores = sorted(os.sched_getaffinity(0))[:2]

    def trained(name: str, processes: int, **more: object) -> float:
        job = job_of(folder, PAIRED, processes=processes, threads=1, minutes=1000.0, **more)
        return rate(job.model_copy(update={"folder": str(folder / name)}), set(cores[:processes]))

    ways: dict[str, dict[str, Any]] = {
        "a batch cut over them": {},
        "a batch cut, sharded tables": {"tables": "sharded"},
        "a batch each, sharded tables": {"parallel": "batches", "tables": "sharded"},
    }
    alone, each, others = [trained("one-0", 1)], [], []
    for turn, (name, more) in enumerate(ways.items(), start=1):
        two = trained(f"each-{turn}", 2, parallel="batches"), trained(name, 2, **more)
        alone.append(trained(f"one-{turn}", 1))
        ratios = [rows / statistics.mean(alone[-2:]) for rows in two]
        each.append(ratios[0])
        others.append(f"{name} {ratios[1]:.2f}")
    return entry(
        "two_processes_vs_one", statistics.median(each), "times its rows/s", 1.5,
        f"the default model; a batch each, tables in common: {' '.join(f'{r:.2f}' for r in sorted(each))}; "
        f"{', '.join(others)}; one process on one core: {' '.join(f'{r:,.0f}' for r in alone)} rows/s",
        least=True,
    )  # fmt: skip


def resume_after_kill(folder: Path, kills: int) -> dict[str, Any]:
    """Trainings killed at random moments and resumed: how many come to the same bits."""
    settings: dict[str, Any] = {"minutes": 0.005, "epochs": 3, "threads": 1, "batch_size": 500}
    undisturbed = job_of(folder, 20_000, **settings)
    began = time.monotonic()
    subprocess.run(command_of(undisturbed), check=True, stderr=subprocess.DEVNULL)
    whole = time.monotonic() - began
    bits = (undisturbed.path / "model.safetensors").read_bytes()
    rng = random.Random(0)
    same = resumed = 0
    for k in range(kills):
        job = undisturbed.model_copy(update={"folder": str(folder / f"killed-{k}")})
        process = subprocess.Popen(command_of(job), stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0, whole))
        process.send_signal(signal.SIGKILL)
        process.wait()
        subprocess.run(command_of(job), check=True, stderr=subprocess.DEVNULL)
        same += (job.path / "model.safetensors").read_bytes() == bits
        resumed += bool(json.loads((job.path / "result.json").read_text())["resumed"])
    return entry(
        "resume_after_kill", same, f"of {kills} to the same bits", kills,
        f"kill -9 at a random moment of {whole:.0f} s; {resumed} of them found a checkpoint", least=True,
    )  # fmt: skip


def run(kills: int = 20) -> list[dict[str, Any]]:
    """The entries of bench.json."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return [table_size(folder), two_processes(folder), resume_after_kill(folder, kills)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    for result in run(parser.parse_args().kills):
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
