"""Benchmark: the trainer.

Measures training steps with large embedding tables, training with two processes, and whether a training run that was
killed and resumed gives the same weights.

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
from entries import make_entry
from synthetic_split import make_job, make_layout

from star_ctr.model.cost import measure_in_turns
from star_ctr.model.data.batches import Batch
from star_ctr.model.data.reader import Rows
from star_ctr.model.train import launch, write_job
from star_ctr.model.training.job import TrainingJob
from star_ctr.model.training.trainer import Trainer

PAIRED = 800_000
"""Number of rows in the comparison of one and two processes.

A training run takes half a minute, so that its start and end have little effect: the time to fill the first windows,
and the short last batches of the domains, for which two processes wait.
"""
DISTINCT = 20_000
"""Number of distinct ids in batches, for all table sizes."""


def make_trainer(folder: Path, vocabulary: int) -> Trainer:
    """Return a trainer whose first embedding has `vocabulary` rows; the others are small."""
    job = make_job(folder, 2000, domains=2)
    sizes = {name: vocabulary if name == "f0" else 1000 for name in job.layout.embeddings}
    return Trainer(job.model_copy(update={"layout": job.layout.model_copy(update={"embeddings": sizes})}))


def make_batch(vocabulary: int, seed: int) -> Batch:
    """Return a batch of 2000 rows of domain 1 with `DISTINCT` distinct ids, spread evenly over the embedding.

    Args:
        vocabulary: The number of rows of the first embedding.
        seed: The seed.
    """
    layout, rng = make_layout(domains=2), np.random.default_rng(seed)
    ints = rng.integers(2, 1000, (2000, layout.int_count))
    ids = np.linspace(2, vocabulary - 1, DISTINCT).astype(np.int64)
    ints[:, 0] = ids[rng.integers(0, DISTINCT, 2000)]
    for sequence, offset in layout.iter_sequence_offsets():
        ints[:, offset] = sequence.length
        first = sequence.iter_offsets(offset)[0][1]
        ints[:, first : first + sequence.length] = ids[rng.integers(0, DISTINCT, (2000, sequence.length))]
    floats = rng.normal(size=(2000, layout.float_count)).astype(np.float32)
    label = (rng.random(2000) < 0.1).astype(np.float32)
    rows = Rows(ints.astype(np.int32), floats, label, np.ones(2000, dtype=np.int32))
    return Batch(1, rows, np.zeros(2000, dtype=np.int32))


def measure_table_size(folder: Path, rounds: int = 30) -> dict[str, Any]:
    """Compare a training step with ten million embedding rows to one with a hundred thousand.

    Args:
        folder: The folder for the splits.
        rounds: The number of measured steps.
    """
    steps = {}
    for vocabulary in (100_000, 10_000_000):
        trainer = make_trainer(folder, vocabulary)
        batches = [make_batch(vocabulary, k) for k in range(4)]
        steps[vocabulary] = lambda k, t=trainer, b=batches: t.train_step([b[k % 4]])
    ms = measure_in_turns(steps, rounds)
    return make_entry(
        "step_10m_vs_100k_rows", ms[10_000_000] / ms[100_000], "ratio of times", 1.3,
        f"the default model, {DISTINCT:,} ids in use; with 100,000 rows {ms[100_000]:.0f} ms",
    )  # fmt: skip


def measure_rate(job: TrainingJob, cores: set[int]) -> float:
    """Train on some cores, and return the rows/s in the training record."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        launch_separately(job)
    finally:
        os.sched_setaffinity(0, before)
    return float(json.loads((job.path / "result.json").read_text())["rows_per_second"])


def launch_separately(job: TrainingJob) -> None:
    """Train in separate processes, even if the job has only one process."""
    if job.trainer.processes > 1:
        launch(job)
    else:
        subprocess.run(make_command(job), check=True, stderr=subprocess.DEVNULL)


def make_command(job: TrainingJob) -> list[str]:
    """Return the command that trains a job in one process."""
    return [sys.executable, "-m", "star_ctr.model.train", str(write_job(job))]


def measure_two_processes(folder: Path) -> dict[str, Any]:
    """Compare two processes on two cores with one process on one core.

    The goal applies to two processes with one batch each. They are measured in three turns. Each turn also measures one
    other way to use two processes. Rates are relative to the mean of the training runs of one process before and after.
    """
    cores = sorted(os.sched_getaffinity(0))[:2]

    def train_and_measure(name: str, processes: int, **more: object) -> float:
        job = make_job(folder, PAIRED, processes=processes, threads=1, minutes=1000.0, **more)
        return measure_rate(job.model_copy(update={"folder": str(folder / name)}), set(cores[:processes]))

    ways: dict[str, dict[str, Any]] = {
        "one divided batch": {},
        "one divided batch, sharded tables": {"tables": "sharded"},
        "one batch per process, sharded tables": {"parallel": "batches", "tables": "sharded"},
    }
    alone, ratios, others = [train_and_measure("one-0", 1)], [], []
    for turn, (name, more) in enumerate(ways.items(), start=1):
        two = train_and_measure(f"each-{turn}", 2, parallel="batches"), train_and_measure(name, 2, **more)
        alone.append(train_and_measure(f"one-{turn}", 1))
        turn_ratios = [rows / statistics.mean(alone[-2:]) for rows in two]
        ratios.append(turn_ratios[0])
        others.append(f"{name} {turn_ratios[1]:.2f}")
    return make_entry(
        "two_processes_vs_one", statistics.median(ratios), "ratio of rows/s", 1.5,
        f"the default model; one batch per process, shared tables: {' '.join(f'{r:.2f}' for r in sorted(ratios))}; "
        f"{', '.join(others)}; one process on one core: {' '.join(f'{r:,.0f}' for r in alone)} rows/s",
        least=True,
    )  # fmt: skip


def measure_resume(folder: Path, kills: int) -> dict[str, Any]:
    """Kill training runs at random times, resume them, and count those with the same weights, bit for bit.

    Args:
        folder: The folder for the split and the training runs.
        kills: The number of training runs to kill.
    """
    settings: dict[str, Any] = {"minutes": 0.005, "epochs": 3, "threads": 1, "batch_size": 500}
    undisturbed = make_job(folder, 20_000, **settings)
    start = time.monotonic()
    subprocess.run(make_command(undisturbed), check=True, stderr=subprocess.DEVNULL)
    whole = time.monotonic() - start
    bits = (undisturbed.path / "model.safetensors").read_bytes()
    rng = random.Random(0)
    same = resumed = 0
    for k in range(kills):
        job = undisturbed.model_copy(update={"folder": str(folder / f"killed-{k}")})
        process = subprocess.Popen(make_command(job), stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0, whole))
        process.send_signal(signal.SIGKILL)
        process.wait()
        subprocess.run(make_command(job), check=True, stderr=subprocess.DEVNULL)
        same += (job.path / "model.safetensors").read_bytes() == bits
        resumed += bool(json.loads((job.path / "result.json").read_text())["resumed"])
    return make_entry(
        "resume_after_kill", same, f"of {kills} with equal weights", kills,
        f"kill -9 at a random time within {whole:.0f} s; {resumed} training runs resumed from a checkpoint", least=True,
    )  # fmt: skip


def run(kills: int = 20) -> list[dict[str, Any]]:
    """Return the entries of bench.json.

    Args:
        kills: The number of training runs to kill.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return [measure_table_size(folder), measure_two_processes(folder), measure_resume(folder, kills)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="number of training runs to kill")
    for result in run(parser.parse_args().kills):
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
