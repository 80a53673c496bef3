"""The Optuna study of a search, in a journal file that several processes share.

The first trial is the current settings. A few trials near them follow; after these, TPE suggests the values. The
unfinished trials of a process that has ended are requeued, with the same values.
"""

from __future__ import annotations

import random
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock, get_lock_file
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from star_ctr.conf.contracts.fingerprint import hash_code, hash_json
from star_ctr.conf.contracts.run_id import hash_config
from star_ctr.workflows.tune.nights import Prepared
from star_ctr.workflows.tune.space import Dimension, draw_near

BASELINE, PROCESS, REASON, VIOLATIONS, VALUES = "baseline", "process", "reason", "violations", "values"
"""Attributes of a trial: whether it has the current settings, the process that runs it, why it failed or was stopped,
by how much it violates each limit, and its changed settings."""
_REQUEUED = "requeued"
"""Attribute of a study, followed by the number of a trial that was requeued, and therefore does not count."""
_NEAR = 9
"""Number of trials near the current settings before TPE starts."""
_MODULES = ("star_ctr.model.offline", "star_ctr.features.evaluation.array_metrics")
"""The modules that train and evaluate a run."""
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)

optuna.logging.set_verbosity(optuna.logging.ERROR)


def make_study_name(prepared: Prepared, space: Sequence[Dimension], objective: str) -> str:
    """Return the name of a study, with a hash of everything that its trials must share to be comparable.

    These are the current settings, the nights, the data of their splits, the search space, the objective and its
    limits, and the code.
    """
    settings, pins = prepared.settings, prepared.pins
    parts = {
        "settings": hash_config(settings),
        "seed": settings.trainer.seed,
        "objective": objective,
        "limits": settings.tune.limits.model_dump(),
        "nights": prepared.nights.search,
        "data": {night: [pin.versions, pin.days, pin.layout.model_dump(mode="json")] for night, pin in pins.items()},
        "space": [repr(dimension) for dimension in space],
        "code": hash_code(_MODULES),
    }
    return f"{settings.name}-{hash_json(parts)}"


class _JournalLock(BaseJournalFileLock):
    """A lock of the journal that the operating system releases if the process is killed."""

    def __init__(self, file: Path) -> None:
        self._lock = FileLock(file)

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


def open_study(folder: Path, name: str, space: Sequence[Dimension], seed: int) -> Study:
    """Open a study, or create it with its first trials.

    Args:
        folder: The folder of the study; created if it does not exist.
        name: The name of the study.
        space: The search space.
        seed: The seed of the sampler.

    Returns:
        The study. Its values are maximized.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, journal = _JournalLock(folder / "journal.lock"), folder / "journal.log"
    _drop_partial_line(journal, lock)
    storage = JournalStorage(JournalFileBackend(str(journal), lock))
    with lock_study(folder):
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            direction="maximize",
            load_if_exists=True,
            pruner=SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
        )
        number = len(study.trials)
        # Use another seed after a restart, so that the sampler does not repeat its first values.
        study.sampler = _make_sampler(seed + number)
        if not number:
            _enqueue_first(study, space, seed)
    return study


def _make_sampler(seed: int) -> TPESampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(
            seed=seed,
            n_startup_trials=1 + _NEAR,
            multivariate=True,
            constant_liar=True,
            constraints_func=lambda trial: trial.user_attrs.get(VIOLATIONS, (0.0, 0.0)),
        )


def _drop_partial_line(journal: Path, lock: _JournalLock) -> None:
    """Remove an incomplete last line, which a crash may leave: Optuna could not read what is appended to it."""
    with get_lock_file(lock):
        if journal.exists() and not (content := journal.read_bytes()).endswith(b"\n"):
            with journal.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)


def _enqueue_first(study: Study, space: Sequence[Dimension], seed: int) -> None:
    source = random.Random(seed)
    current = {d.key: d.encode(d.current) for d in space}
    study.enqueue_trial(current, user_attrs={BASELINE: True})
    encoders = {d.key: d.encode for d in space}
    for _ in range(_NEAR):
        near = {key: encoders[key](value) for key, value in draw_near(space, source).items()}
        study.enqueue_trial(current | near)


@contextmanager
def register_process(folder: Path) -> Iterator[str]:
    """Register this process with the study inside the block.

    Args:
        folder: The folder of the study.

    Yields:
        The id of the process, for `requeue_lost_trials` of other processes.
    """
    process, folder = uuid.uuid4().hex, folder / "processes"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{process}.lock"
    with FileLock(file):
        yield process
    file.unlink(missing_ok=True)


def requeue_lost_trials(study: Study, folder: Path) -> None:
    """Queue the running trials of processes that have ended, with the same values.

    A trial without a process was started by one that ended before it could say so.
    """
    with lock_study(folder):
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            process = trial.user_attrs.get(PROCESS)
            if not process or not _is_running(folder, process):
                requeue_trial(study, trial)


def requeue_trial(study: Study, trial: FrozenTrial | Trial) -> None:
    """Queue a running trial again, with the same values. The trial itself no longer counts."""
    attributes = {BASELINE: True} if trial.user_attrs.get(BASELINE) else {}
    queued = trial.system_attrs.get("fixed_params", {})
    study.enqueue_trial({**queued, **trial.params}, user_attrs=attributes)
    study.set_user_attr(f"{_REQUEUED} {trial.number}", True)
    study.tell(trial.number, state=TrialState.FAIL)


def list_trials(study: Study, states: Sequence[TrialState] = FINISHED) -> list[FrozenTrial]:
    """Return the trials in some states, without those that were requeued."""
    again = study.user_attrs
    trials = study.get_trials(deepcopy=False, states=tuple(states))
    return [t for t in trials if f"{_REQUEUED} {t.number}" not in again]


def get_baseline(study: Study) -> FrozenTrial | None:
    """Return the trial with the current settings; None if it is not finished."""
    return next((t for t in list_trials(study) if t.user_attrs.get(BASELINE)), None)


def get_values(trial: FrozenTrial) -> dict[str, Any]:
    """Return the changed settings of a trial."""
    return dict(trial.user_attrs.get(VALUES, {}))


def lock_study(folder: Path) -> FileLock:
    """Return the lock of a study; a process holds it while it counts, starts or queues trials."""
    return FileLock(folder / "setup.lock")


def _is_running(folder: Path, process: str) -> bool:
    """Return whether a process that registered with the study is still running."""
    file = folder / "processes" / f"{process}.lock"
    if not file.exists():
        return False
    try:
        with FileLock(file).acquire(timeout=0):
            pass
    except Timeout:
        return True
    file.unlink(missing_ok=True)
    return False
