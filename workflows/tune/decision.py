"""The decision: whether the best trials beat the current settings, and the comparison on the unseen night.

A search picks the luckiest of many trials, so their gains in the search are too high. Therefore:

1. The best trials and the current settings are retrained on the search nights, with seeds that the search did not
   use. Halfway through, candidates whose mean gain is not positive are dropped.
2. A candidate is confirmed if its mean gain, paired by night and seed, exceeds the quantile of Student's t distribution
   times its standard error, is positive on every night, and is within the limits. The standard error contains the
   variation between seeds and between users. The quantile is that of a one-sided test at `tune.level`, divided among
   all trials that were trained on all pairs (Bonferroni): retraining uses the same test rows as the search, so the
   search selects from all of them. A call that retrains with more seeds is another test of each trial.
3. The confirmed candidate with the largest mean gain is proposed. It is then compared with the current settings on the
   unseen night, with further seeds. The result is reported; it does not change the proposal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from star_ctr.conf.settings.evaluate import EvaluateSettings
from star_ctr.workflows.tune import study as studies
from star_ctr.workflows.tune.experiment import Experiment, train_all
from star_ctr.workflows.tune.gains import (
    UnseenGain,
    UserBootstrap,
    compare_unseen,
    compute_changes,
    compute_gains,
    compute_needed_gain,
    get_paired_runs,
    measure_violations,
)
from star_ctr.workflows.tune.runs import Pair, Run
from star_ctr.workflows.tune.search import list_best

_RETRAINED = "retrained"
"""Attribute of a study: the numbers of pairs with which candidates were retrained."""


class Candidate(NamedTuple):
    """A trial that was retrained with other seeds.

    Attributes:
        trial: The number of the trial.
        values: Its changed settings.
        search_gain: Its mean gain in the search.
        gains: The gain of each pair of night and seed; the first half of them if the candidate was dropped.
        gain: The mean gain.
        error: The standard error of the mean gain.
        needed: The minimum mean gain of a confirmed candidate.
        reason: Why the candidate is not proposed; empty if it is confirmed.
        changes: The mean changes of metrics, PCOC of both settings, and the ratio of training times.
    """

    trial: int
    values: dict[str, Any]
    search_gain: float
    gains: dict[Pair, float]
    gain: float
    error: float
    needed: float
    reason: str
    changes: dict[str, float]


class Decision(NamedTuple):
    """The result of a search.

    Attributes:
        candidates: The candidates, best first.
        proposed: The proposed candidate; None if none beats the current settings.
        unseen: The gain of the proposed settings on the unseen night; None without a proposal.
    """

    candidates: list[Candidate]
    proposed: Candidate | None
    unseen: UnseenGain | None


def decide(
    experiment: Experiment,
    fresh: Sequence[Pair],
    unseen: Sequence[Pair],
    number: int,
    level: float,
    evaluate: EvaluateSettings,
    show: Callable[[str, int, int], None] = lambda *_: None,
) -> Decision:
    """Train the best trials again, and decide which one is proposed. See the description of the module.

    Args:
        experiment: The experiment.
        fresh: Pairs of the search nights with seeds that the search did not use, in order of seeds.
        unseen: Pairs of the unseen night.
        number: The maximum number of candidates.
        level: The confidence level of the proposal.
        evaluate: The bootstrap over users.
        show: Called with a description, the number of finished runs, and that of all runs.

    Returns:
        The decision.

    Raises:
        DataError: A training run of the current settings failed, or a process was killed.
    """

    def train(what: str, runs: Sequence[Run]) -> None:
        for run, reason in train_all(experiment, runs, True, lambda done, total: show(what, done, total)):
            failures.setdefault(Run(run.values, experiment.pairs[0]).key, reason)

    failures: dict[str, str] = {}
    train("current settings", [Run({}, pair) for pair in experiment.pairs])
    trials = [t for t in list_best(experiment) if _get_search_gain(experiment, t) > 0][:number]
    half = fresh[: math.ceil(len(fresh) / 2)]
    settings = [{}, *(studies.get_values(t) for t in trials)] if trials else []
    train("retraining", [Run(v, pair, keeps_scores=True) for pair in half for v in settings])
    alive = [v for v in settings[1:] if sum(compute_gains(experiment, v, half).values()) > 0]
    rest = [{}, *alive] if alive else []
    train("retraining", [Run(v, pair, keeps_scores=True) for pair in fresh[len(half) :] for v in rest])
    tests = _count_tests(experiment, len(fresh))
    bootstrap = UserBootstrap(experiment, evaluate)
    candidates = [
        _evaluate(experiment, trial, fresh if studies.get_values(trial) in alive else half, tests, level, bootstrap)
        for trial in trials
    ]
    candidates = sorted((_mark_failed(experiment, c, failures) for c in candidates), key=_sort_key)
    proposed = next((c for c in candidates if not c.reason), None)
    if proposed is None:
        return Decision(candidates, None, None)
    train("unseen night", [Run(v, pair, keeps_scores=True) for pair in unseen for v in ({}, proposed.values)])
    candidates = [_mark_failed(experiment, c, failures) for c in candidates]
    if any(c.reason for c in candidates if c.trial == proposed.trial):
        return Decision(candidates, None, None)
    return Decision(candidates, proposed, compare_unseen(experiment, proposed.values, unseen, evaluate))


def _sort_key(candidate: Candidate) -> tuple[bool, float]:
    return math.isnan(candidate.gain), -candidate.gain


def _mark_failed(experiment: Experiment, candidate: Candidate, failures: Mapping[str, str]) -> Candidate:
    """Return a candidate, with the reason if its training failed."""
    reason = failures.get(Run(candidate.values, experiment.pairs[0]).key)
    return candidate._replace(reason=reason) if reason else candidate


def _get_search_gain(experiment: Experiment, trial: FrozenTrial) -> float:
    gains = compute_gains(experiment, studies.get_values(trial), experiment.pairs)
    return sum(gains.values()) / len(gains)


def _count_tests(experiment: Experiment, pairs: int) -> int:
    """Count the comparisons that may have been lucky: trials with all pairs, times the numbers of pairs retrained."""
    study = experiment.study
    trials = studies.list_trials(study, (TrialState.COMPLETE,))
    distinct = {Run(values, experiment.pairs[0]).key for t in trials if (values := studies.get_values(t))}
    looks = {*study.user_attrs.get(_RETRAINED, []), pairs}
    study.set_user_attr(_RETRAINED, sorted(looks))
    return max(1, len(distinct)) * len(looks)


def _evaluate(
    experiment: Experiment,
    trial: FrozenTrial,
    pairs: Sequence[Pair],
    tests: int,
    level: float,
    bootstrap: UserBootstrap,
) -> Candidate:
    """Evaluate a candidate on its pairs."""
    values = studies.get_values(trial)
    gains = compute_gains(experiment, values, pairs)
    mean = sum(gains.values()) / len(gains) if gains else float("nan")
    of_users = bootstrap.compute_variance(values, list(gains))
    error, needed = compute_needed_gain(list(gains.values()), tests, level, of_users)
    runs, baseline = get_paired_runs(experiment, values, pairs)
    nights = sorted({pair.night for pair in gains})
    by_night = {night: np.mean([g for pair, g in gains.items() if pair.night == night]) for night in nights}
    worse = [night for night, gain in by_night.items() if gain <= 0]
    violations = measure_violations(experiment.limits, runs, baseline)
    if mean <= 0:
        reason = "no gain with other seeds"
    elif not mean > needed:
        reason = "the gain may be due to chance"
    elif worse:
        reason = f"no gain on {', '.join(worse)}"
    elif violations[0] > 0:
        reason = "the loss of AUC exceeds the limit"
    elif violations[1] > 0:
        reason = "PCOC is outside the limit"
    else:
        reason = ""
    return Candidate(
        trial.number, values, _get_search_gain(experiment, trial), gains, mean, error, needed, reason,
        compute_changes(runs, baseline),
    )  # fmt: skip
