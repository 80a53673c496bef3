"""AUC, impression-weighted user AUC (GAUC, eq. 9), PCOC, log loss and ECE of scored rows, exact and distributed.

All sums are over integers or decimals. They do not depend on the order in which Spark processes rows: the same scores
give the same metrics to the last digit.
"""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.contracts.domains import OVERALL
from star_ctr.conf.settings.evaluate import EvaluateSettings
from star_ctr.features.evaluation.bootstrap import GROUP, INTERVALS, add_intervals, estimate
from star_ctr.features.evaluation.grouped_sums import require_valid
from star_ctr.features.evaluation.loss_sums import LEAST_SCORE
from star_ctr.features.evaluation.reliability import RELIABILITY, find_bin

_EXACT = "decimal(38, 18)"
OPEN_LABELS = "open_labels"
"""Column with the number of rows whose label was not final. If it is not 0, the metrics are provisional."""
METRICS = ("rows", "users", "clicks", "auc", "gauc", "gauc_users", "gauc_rows", "pcoc", "log_loss", "ece")


def compute_metrics(scores: DataFrame, evaluate: EvaluateSettings) -> DataFrame:
    """Compute the metrics of each run, by domain and for `overall`.

    `overall` mixes the rows of all domains, and groups users over all domains for GAUC (section 4.1).

    Args:
        scores: Rows with `run_id`, `user_id`, `domain`, `label` (0.0 or 1.0) and `score` in [0, 1], and optionally
            `label_final`; without it, all labels count as final.
        evaluate: The number of bootstrap samples (`bootstrap_samples`), the seed and the confidence level.

    Returns:
        One row per run and domain, with `run_id`, `domain`, METRICS, RELIABILITY, OPEN_LABELS and INTERVALS. Undefined
        metrics are null: `auc` if there is only one class; `gauc`, `gauc_users` and `gauc_rows` (the users with both
        classes, and their rows) if no user has both classes; `pcoc` without clicks; intervals also without bootstrap
        samples.
    """
    ranked = add_intervals(estimate(scores, evaluate), evaluate.level)
    return compute_totals(scores).join(ranked, GROUP).select(*GROUP, *METRICS, RELIABILITY, OPEN_LABELS, *INTERVALS)


def count_invalid(scores: DataFrame) -> DataFrame:
    """Count invalid scores and labels by run and domain.

    A score must be in [0, 1] and a label must be 0 or 1. Null and NaN are invalid.

    Args:
        scores: Rows with `run_id`, `domain`, `score` and optionally `label`.

    Returns:
        One row per run and domain, with `run_id`, `domain`, `rows`, `bad_scores` and `bad_labels`.
    """
    score = F.col("score").between(0, 1)
    label = F.col("label").isin(0.0, 1.0) if "label" in scores.columns else F.lit(True)
    return scores.groupBy(*GROUP).agg(
        F.count("*").alias("rows"),
        F.count_if(~F.coalesce(score, F.lit(False))).alias("bad_scores"),
        F.count_if(~F.coalesce(label, F.lit(False))).alias("bad_labels"),
    )


def compute_totals(scores: DataFrame) -> DataFrame:
    """Compute the metrics that need no ranking.

    Args:
        scores: Rows with `run_id`, `domain`, `label` (0.0 or 1.0) and `score` in [0, 1].

    Returns:
        One row per run and domain, and one per run for `overall`, with `rows`, `clicks`, OPEN_LABELS, `log_loss`,
        `pcoc` (predicted CTR over CTR; null without clicks), `ece` (expected calibration error: the mean
        absolute difference between predicted CTR and CTR of the bins, weighted by rows) and RELIABILITY (the bins that
        have rows, in ascending order: `lower`, `rows`, `clicks` and the mean `score`).
    """
    label = require_valid("label", F.col("label").isin(0.0, 1.0))
    score = require_valid("score", F.col("score").between(0, 1))
    is_open = ~F.coalesce("label_final", F.lit(True)) if "label_final" in scores.columns else F.lit(False)
    rows = scores.select(*GROUP, label.alias("label"), score.alias("score"), is_open.alias("is_open"))
    both = rows.unionByName(rows.withColumn("domain", F.lit(OVERALL)))
    p = F.least(F.greatest(F.col("score"), F.lit(LEAST_SCORE)), F.lit(1 - LEAST_SCORE))
    loss = -F.when(F.col("label") > 0, F.log(p)).otherwise(F.log1p(-p))
    bins = both.groupBy(*GROUP, find_bin(F.col("score")).alias("lower")).agg(
        F.count("*").alias("rows"),
        F.sum(F.col("label").cast("long")).alias("clicks"),
        F.count_if("is_open").alias(OPEN_LABELS),
        F.sum(loss.cast(_EXACT)).alias("loss"),
        F.sum(F.col("score").cast(_EXACT)).alias("predicted"),
    )
    mean_score = (F.col("predicted").cast("double") / F.col("rows")).alias("score")
    return bins.groupBy(*GROUP).agg(
        F.sum("rows").alias("rows"),
        F.sum("clicks").alias("clicks"),
        F.sum(OPEN_LABELS).alias(OPEN_LABELS),
        (F.sum("loss").cast("double") / F.sum("rows")).alias("log_loss"),
        F.when(F.sum("clicks") > 0, F.sum("predicted").cast("double") / F.sum("clicks")).alias("pcoc"),
        (F.sum(F.abs(F.col("predicted") - F.col("clicks"))).cast("double") / F.sum("rows")).alias("ece"),
        F.sort_array(F.collect_list(F.struct("lower", "rows", "clicks", mean_score))).alias(RELIABILITY),
    )
