"""Processes that train jobs together, for tests that need no launcher: starting torchrun takes half a minute."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.multiprocessing

from star_ctr.model.distributed.process_lifetime import end_with_parent
from star_ctr.model.train import write_job
from star_ctr.model.training.job import TrainingJob
from star_ctr.model.training.run import train


class Processes:
    """Processes that train one job after the other together.

    Args:
        folder: A folder for the files through which the processes find each other.
        number: The number of processes.
    """

    def __init__(self, folder: Path, number: int) -> None:
        context = torch.multiprocessing.get_context("spawn")
        self._folder, self._count = folder, 0
        self._jobs = [context.Queue() for _ in range(number)]
        self._results = context.Queue()
        self._processes = [
            context.Process(target=_run, args=(rank, number, jobs, self._results), daemon=True)
            for rank, jobs in enumerate(self._jobs)
        ]
        for process in self._processes:
            process.start()

    def train(self, job: TrainingJob, must_resume: bool = False) -> None:
        """Train a job with all processes; fails with the traceback of a process that fails."""
        write_job(job)
        self._count += 1
        for jobs in self._jobs:
            jobs.put((job.model_dump_json(), str(self._folder / f"store-{self._count}"), must_resume))
        for _ in self._jobs:
            error = self._results.get(timeout=300)
            assert error is None, error

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()


def _run(rank: int, number: int, jobs: Any, results: Any) -> None:
    end_with_parent()
    os.environ["LOCAL_WORLD_SIZE"] = str(number)
    while True:
        job, store, must_resume = jobs.get()
        try:
            dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=number)
            train(TrainingJob.model_validate_json(job), must_resume=must_resume)
            dist.destroy_process_group()
            results.put(None)
        except BaseException:
            results.put(traceback.format_exc())
            raise
