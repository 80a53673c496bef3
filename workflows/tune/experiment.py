"""A search on a data set: its study, its runs, and the pool that trains them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from optuna.study import Study

from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.tune import TuneLimits
from star_ctr.workflows.tune.runs import Pair, Run, RunMetrics, Runner, RunStore
from star_ctr.workflows.tune.space import Dimension

KILLED = (
    "tune: a training process was killed, perhaps because memory ran out; run the same command again with a lower "
    "--jobs. Finished runs are kept"
)
"""Message if a process of the pool was killed."""


@dataclass(frozen=True)
class Experiment:
    """What a search needs.

    Attributes:
        study: The Optuna study.
        store: The finished runs.
        runner: Trains a run.
        pool: The pool of processes.
        jobs: The number of processes.
        space: The search space.
        pairs: The pairs of night and seed, in the order in which a trial is trained on them.
        objective: The metric to optimize.
        limits: The limits.
        process: The id of this process.
    """

    study: Study
    store: RunStore
    runner: Runner
    pool: Executor
    jobs: int
    space: Sequence[Dimension]
    pairs: Sequence[Pair]
    objective: str
    limits: TuneLimits
    process: str

    def submit(self, run: Run) -> Future[RunMetrics | None]:
        """Start a run in the pool."""
        return self.pool.submit(self.store.train, run, self.runner)

    def get_runs(self, values: Any, pairs: Sequence[Pair]) -> list[RunMetrics | None]:
        """Return the metrics of the runs of changed settings, with None for unfinished runs."""
        return [self.store.read(Run(values, pair)) for pair in pairs]


def train_all(
    experiment: Experiment,
    runs: Sequence[Run],
    may_fail: bool = False,
    show: Callable[[int, int], None] = lambda *_: None,
) -> list[tuple[Run, str]]:
    """Train all runs that are not finished.

    Args:
        experiment: The experiment.
        runs: The runs.
        may_fail: Whether runs of changed settings may fail.
        show: Called with the number of finished runs and that of all runs.

    Returns:
        The failed runs with the reason of each.

    Raises:
        DataError: A training run that must not fail has failed, or a process was killed.
    """
    failures: list[tuple[Run, str]] = []
    waiting = [run for run in runs if experiment.store.read(run) is None]
    active: dict[Future[RunMetrics | None], Run] = {}
    while waiting or active:
        while waiting and len(active) < experiment.jobs:
            run = waiting.pop(0)
            active[experiment.submit(run)] = run
        show(len(runs) - len(waiting) - len(active), len(runs))
        done, _ = wait(active, 0.5, FIRST_COMPLETED)
        for future in done:
            run = active.pop(future)
            try:
                if future.result() is None:
                    waiting.append(run)  # another process trains it
            except BrokenProcessPool:
                raise DataError(KILLED) from None
            except Exception as error:
                if not (may_fail and run.values):
                    values = dict(run.values) or "the current ones"
                    raise DataError(f"tune: training for {run.pair} failed: {error}. Settings: {values}") from error
                failures.append((run, f"training for {run.pair} failed: {error}"))
    return failures
