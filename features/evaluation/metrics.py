"""AUC, impression-weighted user AUC (eq. 9), PCOC and log loss of scored rows, exact and distributed.

Every sum runs over integers or decimals, which add up the same in whatever order Spark meets the rows: the
same scores give the same metrics to the last digit.
"""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.contracts.encoded_row import OVERALL
from star_ctr.conf.settings.root import EvaluateSettings
from star_ctr.features.evaluation.bootstrap import GROUP, INTERVALS, add_intervals, estimate
from star_ctr.features.evaluation.grouped_sums import require_valid

_EXACT = "decimal(38, 18)"
_LEAST = 1e-15
METRICS = ("rows", "users", "clicks", "auc", "gauc", "gauc_users", "gauc_rows", "pcoc", "log_loss")


def compute_metrics(scores: DataFrame, evaluate: EvaluateSettings) -> DataFrame:
    """For each run one row a domain and one `overall` (all domains mixed, users grouped over all of them, §4.1).

    `scores`: run_id, user_id, domain, label (0.0 or 1.0), score in [0, 1]. Columns: run_id, domain, METRICS and
    INTERVALS; auc is null for one class, gauc (with gauc_users, gauc_rows: the users with both classes and their rows)
    where no user has both, pcoc where nothing was clicked; intervals also without replicates.
    """
    ranked = add_intervals(estimate(scores, evaluate), evaluate.level)
    return compute_totals(scores).join(ranked, GROUP).select(*GROUP, *METRICS, *INTERVALS)


def count_invalid(scores: DataFrame) -> DataFrame:
    """Count invalid scores and labels by run and domain: run_id, domain, rows, bad_scores, bad_labels.

    `scores`: as for `compute_metrics`; the label is optional. A score must be in [0, 1] and a label 0 or 1; null and NaN are
    invalid.
    """
    score = F.col("score").between(0, 1)
    label = F.col("label").isin(0.0, 1.0) if "label" in scores.columns else F.lit(True)
    return scores.groupBy(*GROUP).agg(
        F.count("*").alias("rows"),
        F.count_if(~F.coalesce(score, F.lit(False))).alias("bad_scores"),
        F.count_if(~F.coalesce(label, F.lit(False))).alias("bad_labels"),
    )


def compute_totals(scores: DataFrame) -> DataFrame:
    """Compute rows, clicks, PCOC and log loss of each run by domain and `overall`: the metrics without ranking."""
    label = require_valid("label", F.col("label").isin(0.0, 1.0))
    score = require_valid("score", F.col("score").between(0, 1))
    rows = scores.select(*GROUP, label.alias("label"), score.alias("score"))
    both = rows.unionByName(rows.withColumn("domain", F.lit(OVERALL)))
    p = F.least(F.greatest(F.col("score"), F.lit(_LEAST)), F.lit(1 - _LEAST))
    loss = -F.when(F.col("label") > 0, F.log(p)).otherwise(F.log1p(-p))
    return (
        both.groupBy(*GROUP)
        .agg(
            F.count("*").alias("rows"),
            F.sum(F.col("label").cast("long")).alias("clicks"),
            (F.sum(loss.cast(_EXACT)).cast("double") / F.count("*")).alias("log_loss"),
            F.sum(F.col("score").cast(_EXACT)).cast("double").alias("_predicted"),
        )
        .withColumn("pcoc", F.when(F.col("clicks") > 0, F.col("_predicted") / F.col("clicks")))
        .drop("_predicted")
    )
