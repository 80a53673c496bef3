"""Metrics with a Poisson bootstrap over users: bootstrap samples, intervals, and paired differences of two runs.

Scans over the scores (`ranked_auc`, `user_auc`, `click_sums`, `loss_sums`) compute sums: a few numbers per task, run,
domain and bootstrap sample. The sums are added up here to the metrics of the data and of every bootstrap sample. The
bootstrap weights of users (`poisson_bootstrap`) are the same for all runs, so that runs can be compared in pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DoubleType, StructField, StructType

from star_ctr.conf.settings.evaluate import EvaluateSettings
from star_ctr.features.evaluation.click_sums import compute_pcoc, sum_clicks
from star_ctr.features.evaluation.grouped_sums import RunDomains, collect_names
from star_ctr.features.evaluation.loss_sums import compute_log_loss, sum_losses
from star_ctr.features.evaluation.poisson_bootstrap import Ints, compute_interval, compute_standard_error
from star_ctr.features.evaluation.ranked_auc import compute_auc, sum_ranks
from star_ctr.features.evaluation.user_auc import compute_gauc, sum_users

GROUP = ["run_id", "domain"]
RANKING_METRICS = ("auc", "gauc")
"""The metrics that depend only on the order of the scores."""
ALL_METRICS = (*RANKING_METRICS, "pcoc", "log_loss")
"""The metrics with bootstrap samples. A column such as `auc_all` is an array: the metric of the data, then of each
bootstrap sample."""
INTERVALS = ("auc_low", "auc_high", "gauc_low", "gauc_high")
"""Columns with the bounds of percentile intervals."""
TEST_INPUTS = ("gauc_std", "gauc_effective")
"""Columns with the inputs of significance tests: the standard error of GAUC, and the effective number of users."""
_AUC = "run_id string, domain string, auc_all array<double>"
_PCOC = "run_id string, domain string, pcoc_all array<double>"
_LOG_LOSS = "run_id string, domain string, log_loss_all array<double>"
_GAUC = (
    "run_id string, domain string, users long, gauc_users long, gauc_rows long, gauc_effective double, "
    "gauc_all array<double>"
)


def estimate(scores: DataFrame, evaluate: EvaluateSettings, metrics: Sequence[str] = RANKING_METRICS) -> DataFrame:
    """Compute metrics of each run, by domain and for `overall`, with their bootstrap samples.

    Args:
        scores: Rows with `run_id`, `user_id`, `domain`, `label` (0.0 or 1.0) and `score` in [0, 1].
        evaluate: The number of bootstrap samples (`bootstrap_samples`) and the seed.
        metrics: RANKING_METRICS or ALL_METRICS.

    Returns:
        One row per run and domain, with the columns of `estimate_auc` and `estimate_gauc`, and for ALL_METRICS also of
        `estimate_pcoc` and `estimate_log_loss`.
    """
    names = collect_names(scores)
    found = estimate_auc(scores, evaluate, names).join(estimate_gauc(scores, evaluate, names), GROUP)
    if "pcoc" in metrics:
        found = found.join(estimate_pcoc(scores, evaluate, names), GROUP)
    return found.join(estimate_log_loss(scores, evaluate, names), GROUP) if "log_loss" in metrics else found


def estimate_auc(scores: DataFrame, evaluate: EvaluateSettings, names: RunDomains | None = None) -> DataFrame:
    """Compute AUC with its bootstrap samples.

    Args:
        scores: As for `estimate`.
        evaluate: As for `estimate`.
        names: The runs and domains of `scores`; read from `scores` by default.

    Returns:
        One row per run and domain, with `auc_all`: the AUC of the data, then of each bootstrap sample; NaN if there is
        only one class.
    """

    def combine(table: pa.Table) -> pa.Table:
        # Each task ranked one range of scores. In score order, the positives of a range also win against all negatives
        # of the ranges before it.
        table = table.sort_by("lowest")
        positive, negative, wins = (_stack(table[name]) for name in ("positive", "negative", "wins"))
        below = np.cumsum(negative, axis=0) - negative
        total_wins = (wins + 2 * positive * below).sum(axis=0)
        auc = compute_auc(positive.sum(axis=0), negative.sum(axis=0), total_wins)
        return _pack_row(table, auc_all=pa.array([auc]))

    sums = sum_ranks(scores, names or collect_names(scores), evaluate.bootstrap_samples, evaluate.seed)
    return sums.groupBy(*GROUP).applyInArrow(combine, _AUC)


def estimate_gauc(scores: DataFrame, evaluate: EvaluateSettings, names: RunDomains | None = None) -> DataFrame:
    """Compute GAUC (eq. 9) with its bootstrap samples.

    Args:
        scores: As for `estimate`.
        evaluate: As for `estimate`.
        names: The runs and domains of `scores`; read from `scores` by default.

    Returns:
        One row per run and domain, with

        - `gauc_all`: the GAUC of the data, then of each bootstrap sample; NaN if no user has both classes,
        - `users`: number of users,
        - `gauc_users`, `gauc_rows`: number of users with both classes, and of their rows; null if there are none,
        - `gauc_effective`: effective number of these users, (sum n)^2 / sum n^2 with n rows per user; null if there are
          none.
    """

    def combine(table: pa.Table) -> pa.Table:
        rows, whole, part = (_stack(table[name]).sum(axis=0) for name in ("gauc_rows", "auc_whole", "auc_part"))
        users, with_both, squares = (int(table[n].to_numpy().sum()) for n in ("users", "gauc_users", "gauc_squares"))
        gauc = pa.array([compute_gauc(rows, whole, part)])
        counts = {"users": users, "gauc_users": with_both or None, "gauc_rows": int(rows[0]) or None}
        effective = pa.array([int(rows[0]) ** 2 / squares if squares else None], pa.float64())
        integers = {k: pa.array([n], pa.int64()) for k, n in counts.items()}
        return _pack_row(table, **integers, gauc_effective=effective, gauc_all=gauc)

    sums = sum_users(scores, names or collect_names(scores), evaluate.bootstrap_samples, evaluate.seed)
    return sums.groupBy(*GROUP).applyInArrow(combine, _GAUC)


def estimate_pcoc(scores: DataFrame, evaluate: EvaluateSettings, names: RunDomains | None = None) -> DataFrame:
    """Compute PCOC, predicted clicks / actual clicks, with its bootstrap samples.

    Args:
        scores: As for `estimate`.
        evaluate: As for `estimate`.
        names: The runs and domains of `scores`; read from `scores` by default.

    Returns:
        One row per run and domain, with `pcoc_all`: the PCOC of the data, then of each bootstrap sample; NaN without
        clicks.
    """

    def combine(table: pa.Table) -> pa.Table:
        predicted, clicks = (_stack(table[name]).sum(axis=0) for name in ("predicted", "clicks"))
        return _pack_row(table, pcoc_all=pa.array([compute_pcoc(predicted, clicks)]))

    sums = sum_clicks(scores, names or collect_names(scores), evaluate.bootstrap_samples, evaluate.seed)
    return sums.groupBy(*GROUP).applyInArrow(combine, _PCOC)


def estimate_log_loss(scores: DataFrame, evaluate: EvaluateSettings, names: RunDomains | None = None) -> DataFrame:
    """Compute the log loss with its bootstrap samples.

    Args:
        scores: As for `estimate`.
        evaluate: As for `estimate`.
        names: The runs and domains of `scores`; read from `scores` by default.

    Returns:
        One row per run and domain, with `log_loss_all`: the log loss of the data, then of each bootstrap sample; NaN
        for a sample without rows.
    """

    def combine(table: pa.Table) -> pa.Table:
        rows, loss = (_stack(table[name]).sum(axis=0) for name in ("rows", "loss"))
        return _pack_row(table, log_loss_all=pa.array([compute_log_loss(rows, loss)]))

    sums = sum_losses(scores, names or collect_names(scores), evaluate.bootstrap_samples, evaluate.seed)
    return sums.groupBy(*GROUP).applyInArrow(combine, _LOG_LOSS)


def subtract_estimates(
    estimated: DataFrame, run_id: str, against: str, metrics: Sequence[str] = RANKING_METRICS
) -> DataFrame:
    """Compute the paired differences of two runs, for the data and for each bootstrap sample.

    Args:
        estimated: Estimates of both runs, from `estimate`.
        run_id: The run to compare.
        against: The run to subtract.
        metrics: The metrics to subtract.

    Returns:
        One row per domain, with the metrics of `run_id` minus those of `against`, such as `auc_all`, and with
        `gauc_effective` of `run_id`.
    """
    columns = [f"{metric}_all" for metric in metrics]
    left, right = (
        estimated.where(F.col("run_id") == run).select(
            "domain", *(F.col(c).alias(f"{c}{suffix}") for c in columns), *extra
        )
        for run, suffix, extra in ((run_id, "", ("gauc_effective",)), (against, "_other", ()))
    )
    differences = [F.zip_with(c, f"{c}_other", lambda x, y: x - y).alias(c) for c in columns]
    return left.join(right, "domain").select("domain", "gauc_effective", *differences)


def add_intervals(estimated: DataFrame, level: float, metrics: Sequence[str] = RANKING_METRICS) -> DataFrame:
    """Replace bootstrap samples by intervals and standard errors.

    Args:
        estimated: Estimates from `estimate` or differences from `subtract_estimates`.
        level: Confidence level of the intervals, such as 0.95.
        metrics: The metrics of `estimated`.

    Returns:
        `estimated` with columns in place of the samples of each metric, such as `auc`, `auc_low`, `auc_high` and
        `auc_std` in place of `auc_all`; null if undefined.
    """
    kept = [f for f in estimated.schema.fields if f.name not in {f"{metric}_all" for metric in metrics}]
    names = [*metrics, *(f"{m}_{bound}" for m in metrics for bound in ("low", "high")), *(f"{m}_std" for m in metrics)]

    def summarize(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            columns: dict[str, list[float | None]] = {name: [] for name in names}
            for metric in metrics:
                for row in batch.column(f"{metric}_all"):
                    values = row.values.to_numpy()
                    columns[metric].append(None if np.isnan(values[0]) else float(values[0]))
                    interval = compute_interval(values[1:], level)
                    for bound, value in zip(("low", "high"), interval, strict=True):
                        columns[f"{metric}_{bound}"].append(value)
                    columns[f"{metric}_std"].append(compute_standard_error(values[1:], level))
            arrays = [batch.column(f.name) for f in kept] + [pa.array(columns[name], pa.float64()) for name in names]
            yield pa.RecordBatch.from_arrays(arrays, names=[*(f.name for f in kept), *names])

    fields = [*kept, *(StructField(name, DoubleType()) for name in names)]
    return estimated.mapInArrow(summarize, StructType(fields))


def _stack(lists: pa.ChunkedArray) -> Ints:
    """Return lists of equal length as the rows of a 2-D array."""
    return np.stack(lists.to_numpy())


def _pack_row(table: pa.Table, **columns: pa.Array) -> pa.Table:
    """Return one row with the run and domain of `table` and the given columns."""
    return pa.table({**{name: table[name][:1] for name in GROUP}, **columns})
