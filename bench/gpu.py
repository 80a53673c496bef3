"""Benchmark: the trainer on a GPU: rows/s by batch size, the share of time spent waiting for data, and the bottleneck.

Without a GPU, the script prints a message and measures nothing.

    python bench/gpu.py
"""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from entries import make_entry
from rich.console import Console
from rich.table import Table
from stream import measure_waiting
from synthetic_split import make_job

from star_ctr.model.data.batches import Batch, iter_epoch, prefetch
from star_ctr.model.distributed.threads import choose_readers
from star_ctr.model.training.job import TrainingJob
from star_ctr.model.training.trainer import Trainer

ROWS = 600_000
"""Number of training rows."""
STEPS = 40
"""Number of measured training steps."""


def measure_stream(job: TrainingJob) -> float:
    """Return the rows/s of the data loader alone, with pinned memory and without training."""
    trainer = Trainer(job)
    s = job.trainer
    start = time.perf_counter()
    batches = prefetch(
        iter_epoch(
            trainer.files, job.layout, s.batch_size, s.data.window_rows, s.seed, 0, readers=choose_readers(job.trainer)
        ),
        pin=True,
    )
    rows = sum(len(b.rows) for b in batches)
    return rows / (time.perf_counter() - start)


def measure_steps(job: TrainingJob) -> tuple[float, float]:
    """Measure training steps on batches that are already in memory.

    Returns:
        The rows/s, and the share of the time in which the GPU computes.
    """
    trainer = Trainer(job)
    full = [b for b in itertools.islice(trainer._iter_batches(), 30) if len(b.rows) == job.trainer.batch_size][:8]

    def time_steps(n: int) -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for k in range(n):
            trainer.train_step([full[k % len(full)]])
        torch.cuda.synchronize()
        return time.perf_counter() - start

    time_steps(10)
    seconds = time_steps(STEPS)
    return STEPS * job.trainer.batch_size / seconds, measure_gpu_time(trainer, full) * STEPS / seconds


def measure_gpu_time(trainer: Trainer, batches: list[Batch]) -> float:
    """Return the seconds per step in which the GPU computes, as measured by the profiler."""
    kinds = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        for k in range(STEPS):
            trainer.train_step([batches[k % len(batches)]])
        torch.cuda.synchronize()
    return float(sum(e.self_device_time_total for e in profile.key_averages())) / 1e6 / STEPS


def run() -> list[dict[str, Any]]:
    """Measure the trainer, print a table, and return the entries of bench.json; empty without a GPU."""
    if not torch.cuda.is_available():
        print("gpu: no GPU is available, nothing was measured")
        return []
    table = Table(
        "batch", "precision", "rows/s", "waiting", "stream only", "steps only", "GPU computes", "memory",
        title=f"{torch.cuda.get_device_name()}, {ROWS:,} rows, the default model",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, cpu = measure_waiting(make_job(folder, ROWS))
        found = {}
        for size, precision in [(2000, "float32"), (2000, "bfloat16"), (8000, "float32"), (32_000, "float32")]:
            job = make_job(folder, ROWS, device="cuda", batch_size=size, precision=precision)
            stream_rate, (step_rate, busy) = measure_stream(job), measure_steps(job)
            torch.cuda.reset_peak_memory_stats()
            found[size, precision] = waited, rate = measure_waiting(job)
            memory = torch.cuda.max_memory_allocated() / 2**30
            table.add_row(f"{size:,}", precision, f"{rate:,.0f}", f"{waited:.1%}", f"{stream_rate:,.0f}",
                          f"{step_rate:,.0f}", f"{busy:.0%} of a step", f"{memory:.1f} GiB")  # fmt: skip
    Console(width=140).print(table)
    waited, rate = found[2000, "float32"]
    cores = torch.get_num_threads()
    return [
        make_entry("gpu_vs_cpu", rate / cpu, "ratio of rows/s", 1.0,
              f"the default model, batches of 2000: {rate:,.0f} rows/s; CPU with {cores} cores {cpu:,.0f} rows/s",
              least=True),
        make_entry("gpu_stream_wait_share", waited, "share of time", 0.05,
              f"the default model, batches of 2000; batches of 32,000: {found[32_000, 'float32'][0]:.3f} at "
              f"{found[32_000, 'float32'][1]:,.0f} rows/s"),
    ]  # fmt: skip


if __name__ == "__main__":
    for result in run():
        print(json.dumps(result, indent=1))
