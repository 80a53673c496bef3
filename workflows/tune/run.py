"""Search and decision on prepared nights, without Spark."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

from star_ctr.conf.contracts.catalog import Warehouse
from star_ctr.conf.errors import UserError
from star_ctr.conf.files import is_remote, open_folder
from star_ctr.conf.settings.root import Settings
from star_ctr.model.distributed.threads import count_cores
from star_ctr.workflows.training_pool import open_pool
from star_ctr.workflows.tune import study as studies
from star_ctr.workflows.tune.decision import Decision, decide
from star_ctr.workflows.tune.display import Display
from star_ctr.workflows.tune.experiment import Experiment
from star_ctr.workflows.tune.nights import Nights, Prepared
from star_ctr.workflows.tune.runs import Pair, Runner, RunStore, Trainer
from star_ctr.workflows.tune.search import Budget, search
from star_ctr.workflows.tune.space import make_space

_MIN_RUNS = 8
"""Minimum number of runs of a trial that is not stopped early."""
_MAX_SEEDS = 32
"""Maximum number of seeds per night with which the best trials are retrained."""
_FIRST_UNSEEN_SEED = 1000
"""Offset of the seeds of the unseen night."""

PoolStart = Callable[[int], AbstractContextManager[Executor]]
"""Starts a pool with a number of workers."""


class Options(NamedTuple):
    """The options of a search.

    Attributes:
        trials: Number of trials of the study, with the current settings; None for no limit.
        minutes: Time for all training runs of this call; None for no limit.
        jobs: Number of parallel training runs; by default, the number of cores.
        seeds: Minimum number of seeds per night with which the best trials are retrained; more if there is time.
    """

    trials: int | None = None
    minutes: float | None = None
    jobs: int | None = None
    seeds: int = 4


class Pairs(NamedTuple):
    """The pairs of night and seed of a search. No seed occurs in two of the lists.

    Attributes:
        search: The pairs of a trial, in order.
        fresh: The pairs on which the best trials are retrained.
        unseen: The pairs of the unseen night.
    """

    search: list[Pair]
    fresh: list[Pair]
    unseen: list[Pair]


class TuneResult(NamedTuple):
    """The result of a search.

    Attributes:
        settings: The current settings.
        nights: The nights.
        experiment: The experiment, whose pool is closed.
        decision: The decision.
    """

    settings: Settings
    nights: Nights
    experiment: Experiment
    decision: Decision


def make_pairs(nights: Nights, first_seed: int, seeds: int) -> Pairs:
    """Return the pairs of night and seed of a search, with the newest nights first.

    Args:
        nights: The nights.
        first_seed: The first seed.
        seeds: The number of seeds per night with which the best trials are retrained.

    Returns:
        The pairs.
    """
    newest_first = sorted(nights.search, reverse=True)
    number = max(2, math.ceil(_MIN_RUNS / len(newest_first)))
    fresh = first_seed + number
    return Pairs(
        [Pair(night, seed) for seed in range(first_seed, fresh) for night in newest_first],
        [Pair(night, seed) for seed in range(fresh, fresh + seeds) for night in newest_first],
        [Pair(nights.unseen, first_seed + _FIRST_UNSEEN_SEED + k) for k in range(seeds)],
    )


@contextmanager
def open_experiment(
    prepared: Prepared, jobs: int | None, runner: Runner | None = None, start_pool: PoolStart = open_pool
) -> Iterator[Experiment]:
    """Open the study of a data set, with a pool of processes.

    Args:
        prepared: The inputs of the training runs.
        jobs: The number of processes; by default, the number of cores.
        runner: Trains the runs; by default, on the data set.
        start_pool: Starts the pool; by default, of processes.

    Yields:
        The experiment. Its pairs are those of the search.

    Raises:
        UserError: The warehouse is in an object store.
    """
    settings = prepared.settings
    root = open_folder(Warehouse(settings.paths).studies)
    if is_remote(root):
        raise UserError(
            f"paths.warehouse: {settings.paths.warehouse} is in an object store, which cannot hold the study; run tune "
            "on a warehouse in a folder"
        )
    space, objective, jobs = make_space(settings), settings.tune.objective, jobs or count_cores()
    if not space:
        raise UserError("tune.space: the search space is empty; add keys, or do not exclude all of the default ones")
    name = studies.make_study_name(prepared, space, objective)
    folder = root / name
    study = studies.open_study(folder, name, space, settings.trainer.seed)
    runner = runner or Trainer(settings, prepared.pins, folder / "unfinished")
    pairs = make_pairs(prepared.nights, settings.trainer.seed, 0).search
    with studies.register_process(folder) as process, start_pool(jobs) as pool:
        studies.requeue_lost_trials(study, folder)
        yield Experiment(
            study, RunStore(folder), runner, pool, jobs, space, pairs, objective, settings.tune.limits, process
        )


def run(
    prepared: Prepared, options: Options, runner: Runner | None = None, start_pool: PoolStart = open_pool
) -> TuneResult:
    """Search, and decide whether better settings were found.

    Args:
        prepared: The inputs of the training runs.
        options: The options.
        runner: Trains the runs; by default, on the data set.
        start_pool: Starts the pool; by default, of processes.

    Returns:
        The result.

    Raises:
        DataError: The current settings cannot be trained, or a process was killed.
        UserError: The warehouse is in an object store, or the search space is empty.
    """
    settings = prepared.settings
    number = settings.tune.candidates
    runs_per_seed = (number + 1) * len(prepared.nights.search) + 2
    with open_experiment(prepared, options.jobs, runner, start_pool) as experiment, Display(experiment) as display:
        seconds = None if options.minutes is None else 60 * options.minutes
        budget = Budget(options.trials, seconds, options.seeds * runs_per_seed, experiment.jobs)
        search(experiment, budget, display.show_search)
        seeds = max(options.seeds, min(_MAX_SEEDS, budget.count_final_runs() // runs_per_seed))
        pairs = make_pairs(prepared.nights, settings.trainer.seed, seeds)
        decision = decide(
            experiment, pairs.fresh, pairs.unseen, number, settings.tune.level, settings.evaluate, display.show_runs
        )
    return TuneResult(settings, prepared.nights, experiment, decision)
