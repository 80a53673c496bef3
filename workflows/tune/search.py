"""The search: trials start with one run each, and the better half continues with more nights and seeds.

A trial is trained on its pairs of night and seed, one after the other. After 1, 2, 4, ... runs, it only continues if
its mean is in the better half of all trials so far with as many runs (asynchronous successive halving, Li et al., MLSys
2020). The current settings are always trained on all pairs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from star_ctr.conf.errors import DataError
from star_ctr.workflows.tune import study as studies
from star_ctr.workflows.tune.experiment import KILLED, Experiment
from star_ctr.workflows.tune.gains import measure_violations
from star_ctr.workflows.tune.runs import Run, RunMetrics, get_metric

_POLL_SECONDS = 0.5
_MAX_REPEATS = 20
"""The search space counts as exhausted after this number of consecutive trials that repeat earlier ones."""
_MAX_FAILURES = 5
"""The search stops if this number of trials have failed and only the baseline has finished."""


@dataclass
class Budget:
    """When the search stops, and how many runs may follow.

    Attributes:
        trials: Number of trials of the study, with the baseline; None for no limit.
        seconds: Time for the search and the runs after it; None for no limit.
        final_runs: Minimum number of runs after the search.
        jobs: Number of parallel runs.
        start: Start of the search, as `time.monotonic`.
    """

    trials: int | None
    seconds: float | None
    final_runs: int
    jobs: int
    start: float = field(default_factory=time.monotonic)
    _run_seconds: list[float] = field(default_factory=list)

    def add_run(self, seconds: float) -> None:
        """Add the duration of a run, from which the time after the search is estimated."""
        self._run_seconds.append(seconds)

    def get_search_seconds(self) -> float:
        """Return the time for the search: half of the budget, or two fifths if the runs after it need the time."""
        if self.seconds is None:
            return math.inf
        needed = self.final_runs / self.jobs * self._get_mean_seconds()
        return min(max(0.4 * self.seconds, self.seconds - needed), 0.5 * self.seconds)

    def count_final_runs(self) -> int:
        """Return the number of runs for which there is time after the search, at least `final_runs`."""
        mean = self._get_mean_seconds()
        if self.seconds is None or not mean:
            return self.final_runs
        return max(self.final_runs, int((self.seconds - self.get_elapsed()) * self.jobs / mean))

    def _get_mean_seconds(self) -> float:
        return sum(self._run_seconds) / max(1, len(self._run_seconds))

    def get_elapsed(self) -> float:
        """Return the time since the start, in seconds."""
        return time.monotonic() - self.start

    def is_used_up(self, study: Study) -> bool:
        """Return whether no further trial may start."""
        if self.trials is not None:
            started = studies.list_trials(study, (*studies.FINISHED, TrialState.RUNNING))
            if len(started) >= self.trials:
                return True
        return self.get_elapsed() >= self.get_search_seconds()


@dataclass
class _Active:
    """A trial that is being trained."""

    trial: Trial
    values: dict[str, Any]
    is_baseline: bool
    runs: list[RunMetrics] = field(default_factory=list)
    run_start: float = field(default_factory=time.monotonic)
    is_stored: bool = False


def search(experiment: Experiment, budget: Budget, show: Callable[[Budget], None] = lambda _: None) -> None:
    """Run trials until the budget is used up.

    If this function is left by an error or by Ctrl-C, its unfinished trials are requeued.

    Args:
        experiment: What to search.
        budget: When to stop.
        show: Called after each step, to show the progress.

    Raises:
        DataError: The current settings cannot be trained or evaluated, the first trials all failed, or a process was
            killed.
    """
    active: dict[Future[RunMetrics | None], _Active] = {}
    repeats = 0
    try:
        while True:
            while len(active) < experiment.jobs and repeats < _MAX_REPEATS:
                started = _start_trial(experiment, budget)
                if started is None:
                    break
                active[_submit_next_run(experiment, started)] = started
                repeats = repeats + 1 if started.is_stored and not started.is_baseline else 0
            show(budget)
            if not active:
                return
            done, _ = wait(active, _POLL_SECONDS, FIRST_COMPLETED)
            for future in done:
                trial = active.pop(future)
                if not _finish_run(experiment, trial, future, budget):
                    continue
                if not trial.is_baseline and budget.get_elapsed() >= budget.get_search_seconds():
                    studies.requeue_trial(experiment.study, trial.trial)
                    continue
                active[_submit_next_run(experiment, trial)] = trial
                repeats = repeats if trial.is_stored else 0
    except BaseException as error:
        for trial in active.values():
            studies.requeue_trial(experiment.study, trial.trial)
        if isinstance(error, BrokenProcessPool):
            raise DataError(KILLED) from None
        raise


def _start_trial(experiment: Experiment, budget: Budget) -> _Active | None:
    """Start the next queued trial, or one that the sampler suggests; return None if the budget is used up."""
    # With the lock, so that several processes together do not start more trials.
    with studies.lock_study(experiment.store.folder.parent):
        if budget.is_used_up(experiment.study):
            return None
        trial = experiment.study.ask()
        trial.set_user_attr(studies.PROCESS, experiment.process)
    suggested = {d.key: d.suggest(trial) for d in experiment.space}
    is_baseline = bool(trial.user_attrs.get(studies.BASELINE))
    current = {d.key: d.current for d in experiment.space}
    values = {} if is_baseline else {key: v for key, v in suggested.items() if v != current[key]}
    trial.set_user_attr(studies.VALUES, values)
    return _Active(trial, values, is_baseline)


def _submit_next_run(experiment: Experiment, active: _Active) -> Future[RunMetrics | None]:
    """Submit the next run of a trial, and note whether it is finished already."""
    run = Run(active.values, experiment.pairs[len(active.runs)])
    active.is_stored, active.run_start = experiment.store.read(run) is not None, time.monotonic()
    return experiment.submit(run)


def _finish_run(experiment: Experiment, active: _Active, future: Future[RunMetrics | None], budget: Budget) -> bool:
    """Record a run; return whether the trial continues."""
    study, trial = experiment.study, active.trial
    try:
        metrics = future.result()
    except BrokenProcessPool:
        studies.requeue_trial(study, trial)
        raise
    except Exception as error:
        return _fail(experiment, active, f"{type(error).__name__}: {error}" if not str(error) else str(error))
    if metrics is None:
        return True  # another process trains this run
    if not active.is_stored:
        budget.add_run(time.monotonic() - active.run_start)
    active.runs.append(metrics)
    value = sum(get_metric(m, experiment.objective) for m in active.runs) / len(active.runs)
    if math.isnan(value):
        pair = experiment.pairs[len(active.runs) - 1]
        return _fail(experiment, active, f"{experiment.objective} is undefined on {pair}")
    trial.report(value, len(active.runs))
    trial.set_user_attr(studies.VIOLATIONS, compute_violations(experiment, active.values, active.runs))
    is_stopped = trial.should_prune()  # also records the value for the other trials
    if len(active.runs) == len(experiment.pairs):
        study.tell(trial, value)
        return False
    if is_stopped and not active.is_baseline:
        study.tell(trial, state=TrialState.PRUNED)
        return False
    return True


def _fail(experiment: Experiment, active: _Active, reason: str) -> bool:
    """Record that a trial failed; return False."""
    active.trial.set_user_attr(studies.REASON, reason)
    experiment.study.tell(active.trial, state=TrialState.FAIL)
    if active.is_baseline:
        raise DataError(f"tune: the current settings cannot be used as the baseline: {reason}")
    trials = [t for t in studies.list_trials(experiment.study) if not t.user_attrs.get(studies.BASELINE)]
    if len(trials) >= _MAX_FAILURES and all(t.state == TrialState.FAIL for t in trials):
        raise DataError(f"tune: the first {len(trials)} trials failed; check tune.space. The last reason: {reason}")
    return False


def compute_violations(experiment: Experiment, values: Any, runs: Sequence[RunMetrics]) -> list[float]:
    """Compute by how much runs of changed settings violate the limits, on the pairs that the baseline has, too.

    Args:
        experiment: The experiment.
        values: The changed settings.
        runs: Their runs on the first pairs.

    Returns:
        The excess over the limit of AUC and over that of PCOC; at most 0 if a limit is met.
    """
    if not values:
        return [0.0, 0.0]
    both = [(a, b) for a, b in zip(runs, experiment.get_runs({}, experiment.pairs), strict=False) if b is not None]
    return measure_violations(experiment.limits, [a for a, _ in both], [b for _, b in both])


def list_best(experiment: Experiment) -> list[FrozenTrial]:
    """Return the trials that were trained on all pairs and are within the limits, best first, without the baseline."""
    trials = [t for t in studies.list_trials(experiment.study, (TrialState.COMPLETE,)) if studies.get_values(t)]
    distinct = {Run(studies.get_values(t), experiment.pairs[0]).key: t for t in reversed(trials)}
    within = [t for t in distinct.values() if _is_within_limits(experiment, studies.get_values(t))]
    return sorted(within, key=lambda t: (-t.values[0], t.number))


def _is_within_limits(experiment: Experiment, values: dict[str, Any]) -> bool:
    runs = [run for run in experiment.get_runs(values, experiment.pairs) if run is not None]
    return all(v <= 0 for v in compute_violations(experiment, values, runs))
