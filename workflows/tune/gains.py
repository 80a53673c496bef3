"""Gains of changed settings over the current ones, paired by night and seed, and the limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from scipy import stats

from star_ctr.conf.settings.evaluate import EvaluateSettings
from star_ctr.conf.settings.tune import TuneLimits
from star_ctr.features.evaluation.array_metrics import compute_auc_samples, compute_gauc_samples, hash_users
from star_ctr.features.evaluation.paired_differences import combine_variances
from star_ctr.features.evaluation.poisson_bootstrap import Floats
from star_ctr.workflows.tune.experiment import Experiment
from star_ctr.workflows.tune.runs import Pair, Run, RunMetrics, compute_pcoc, get_metric


class UnseenGain(NamedTuple):
    """The gain of the proposed settings on the unseen night.

    Attributes:
        gains: The gain of each pair.
        gain: The mean gain.
        low: Lower bound of its interval.
        high: Upper bound of its interval.
        changes: As for `Candidate`.
    """

    gains: dict[Pair, float]
    gain: float
    low: float
    high: float
    changes: dict[str, float]


def compute_gains(experiment: Experiment, values: dict[str, Any], pairs: Sequence[Pair]) -> dict[Pair, float]:
    """Compute the gain of changed settings on each pair that they and the current settings were trained on.

    Args:
        experiment: The experiment.
        values: The changed settings.
        pairs: The pairs.

    Returns:
        The gain in the objective by pair; positive is better.
    """
    both = zip(experiment.get_runs(values, pairs), experiment.get_runs({}, pairs), pairs, strict=True)
    return {
        pair: get_metric(a, experiment.objective) - get_metric(b, experiment.objective)
        for a, b, pair in both
        if a is not None and b is not None
    }


def compute_needed_gain(
    gains: Sequence[float], tests: int, level: float, user_variance: float = 0.0
) -> tuple[float, float]:
    """Compute the mean gain that confirms a candidate.

    Args:
        gains: The gains of its pairs.
        tests: The number of comparisons that share the error rate.
        level: The confidence level.
        user_variance: The variance of the mean gain due to the choice of users.

    Returns:
        The standard error of the mean gain, and the needed mean gain; both are infinite with fewer than two pairs.
    """
    n = len(gains)
    if n < 2:
        return math.inf, math.inf
    error = math.sqrt(float(np.var(gains, ddof=1)) / n + user_variance)
    return error, float(stats.t.isf((1 - level) / tests, n - 1)) * error


class UserBootstrap:
    """A bootstrap over users of the gains of a search, whose runs kept their scores.

    The samples of a run are computed once, because all candidates are compared with the same current settings.

    Args:
        experiment: The experiment.
        evaluate: The number of bootstrap samples and their seed.
    """

    def __init__(self, experiment: Experiment, evaluate: EvaluateSettings) -> None:
        self.experiment, self.evaluate = experiment, evaluate
        self._samples: dict[str, Floats] = {}

    def sample_mean_gain(self, values: dict[str, Any], pairs: Sequence[Pair]) -> Floats | None:
        """Return the mean gain over pairs of night and seed in each bootstrap sample.

        Args:
            values: The changed settings.
            pairs: The pairs.

        Returns:
            (samples,) gains; None for the objective `log_loss`, without bootstrap samples, or without scores.
        """
        gains = []
        for pair in pairs:
            changed, current = (self._sample(Run(v, pair, keeps_scores=True)) for v in (values, {}))
            if not len(changed) or not len(current):
                return None
            gains.append(changed - current)
        return np.mean(gains, axis=0) if gains else None

    def compute_variance(self, values: dict[str, Any], pairs: Sequence[Pair]) -> float:
        """Return the variance of the mean gain due to the choice of users, which all seeds of a night share."""
        samples = self.sample_mean_gain(values, pairs)
        return 0.0 if samples is None or len(samples) < 2 else float(np.nanvar(samples, ddof=1))

    def _sample(self, run: Run) -> Floats:
        """Return the objective of a run in each bootstrap sample; empty if there are none."""
        if run.key not in self._samples:
            self._samples[run.key] = self._compute(run)
        return self._samples[run.key]

    def _compute(self, run: Run) -> Floats:
        file, objective = self.experiment.store.get_scores(run), self.experiment.objective
        if not file.exists() or objective == "log_loss":
            return np.empty(0)
        rows = pq.read_table(file)
        if not len(rows):
            return np.empty(0)
        user, label, score = (rows[name].to_numpy() for name in ("user_id", "label", "score"))
        options = {"samples": self.evaluate.bootstrap_samples, "seed": self.evaluate.seed}
        if objective == "gauc":
            return compute_gauc_samples(user, label, score, **options)[1:]
        users, number = np.unique(user, return_inverse=True)
        return compute_auc_samples(label, score, hash_users(users)[number], **options)[1:]


def get_paired_runs(
    experiment: Experiment, values: dict[str, Any], pairs: Sequence[Pair]
) -> tuple[list[RunMetrics], list[RunMetrics]]:
    """Return the runs of changed and of current settings, for the pairs that both have."""
    both = zip(experiment.get_runs(values, pairs), experiment.get_runs({}, pairs), strict=True)
    found = [(a, b) for a, b in both if a is not None and b is not None]
    return [a for a, _ in found], [b for _, b in found]


def compute_changes(runs: Sequence[RunMetrics], baseline: Sequence[RunMetrics]) -> dict[str, float]:
    """Return mean changes of AUC, GAUC and log loss, PCOC of both, and the ratio of training times; {} without runs."""
    if not runs:
        return {}
    changes = {
        name: float(np.mean([get_metric(a, name) - get_metric(b, name) for a, b in zip(runs, baseline, strict=True)]))
        for name in ("auc", "gauc", "log_loss")
    }
    seconds = sum(b.seconds for b in baseline)
    factor = sum(a.seconds for a in runs) / seconds if seconds else float("nan")
    return {
        **changes,
        "log_loss": -changes["log_loss"],
        "pcoc": compute_pcoc(runs),
        "current_pcoc": compute_pcoc(baseline),
        "seconds_factor": factor,
    }


def compare_unseen(
    experiment: Experiment, values: dict[str, Any], pairs: Sequence[Pair], evaluate: EvaluateSettings
) -> UnseenGain:
    """Compute the gain on the unseen night with its interval."""
    gains = compute_gains(experiment, values, pairs)
    samples = UserBootstrap(experiment, evaluate).sample_mean_gain(values, pairs)
    low, high = compute_gain_interval(list(gains.values()), samples, evaluate.level)
    runs, baseline = get_paired_runs(experiment, values, pairs)
    return UnseenGain(gains, sum(gains.values()) / len(gains), low, high, compute_changes(runs, baseline))


def compute_gain_interval(gains: Sequence[float], samples: Any, level: float) -> tuple[float, float]:
    """Compute the interval of a mean gain over seeds, with the variation between seeds and between users.

    The two variances are added. The interval uses Student's t distribution with the degrees of freedom of
    Welch-Satterthwaite.

    Args:
        gains: The gain of each seed.
        samples: The mean gain over seeds in each bootstrap sample of users; None without a bootstrap.
        level: The confidence level.

    Returns:
        The bounds; infinite if nothing is known about the variation.
    """
    mean, n = float(np.mean(gains)), len(gains)
    of_seeds = float(np.var(gains, ddof=1)) / n if n > 1 else 0.0
    of_users = 0.0 if samples is None or len(samples) < 2 else float(np.nanvar(samples, ddof=1))
    if n < 2 and not of_users:
        return -math.inf, math.inf
    parts = [(of_seeds, n - 1)] if n > 1 else []
    parts += [(of_users, len(samples) - 1)] if of_users else []
    std, dof = combine_variances(parts)
    width = float(stats.t.ppf((1 + level) / 2, dof)) * std if std else 0.0
    return mean - width, mean + width


def measure_violations(limits: TuneLimits, runs: Sequence[RunMetrics], baseline: Sequence[RunMetrics]) -> list[float]:
    """Compute by how much runs violate the limits.

    Args:
        limits: The limits.
        runs: The runs of changed settings.
        baseline: The runs of the current settings on the same pairs.

    Returns:
        The excess over the limit of AUC and over that of PCOC; at most 0 if a limit is met.
    """
    losses = [b.auc - a.auc for a, b in zip(runs, baseline, strict=True) if a.auc is not None and b.auc is not None]
    auc = sum(losses) / len(losses) - limits.auc if losses else 0.0
    distance, allowed = abs(compute_pcoc(runs) - 1), max(limits.pcoc, abs(compute_pcoc(baseline) - 1))
    pcoc = distance - allowed
    return [auc, 0.0 if math.isnan(pcoc) else pcoc]
