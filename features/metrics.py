"""AUC, impression-weighted user AUC (eq. 9), PCOC and log loss of scored rows, exact and distributed.

Every sum runs over integers or decimals, which add up the same in whatever order Spark meets the rows: the
same scores give the same metrics to the last digit.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from star_ctr.conf.layout import OVERALL

_EXACT = "decimal(38, 18)"
_BUCKETS = 4096
_LEAST = 1e-15
GROUP = ["run_id", "domain"]
METRICS = ("rows", "users", "clicks", "auc", "gauc", "gauc_users", "gauc_rows", "pcoc", "log_loss")


def by_domain(scores: DataFrame) -> DataFrame:
    """For each run one row a domain and one `overall` (all domains mixed, users grouped over all of them, §4.1).

    `scores`: run_id, user_id, domain, label (0.0 or 1.0), score in [0, 1]. Columns: run_id, domain and METRICS;
    auc is null for one class, gauc (with gauc_users, gauc_rows: the users with both classes and their rows)
    where no user has both, pcoc where nothing was clicked.
    """
    rows = scores.select(*GROUP, "user_id", "label", "score")
    both = rows.unionByName(rows.withColumn("domain", F.lit(OVERALL)))
    totals = _totals(both)
    return totals.join(_auc(both), GROUP, "left").join(gauc(both), GROUP, "left").select(*GROUP, *METRICS)


def _totals(rows: DataFrame) -> DataFrame:
    p = F.least(F.greatest(F.col("score"), F.lit(_LEAST)), F.lit(1 - _LEAST))
    loss = -F.when(F.col("label") > 0, F.log(p)).otherwise(F.log1p(-p))
    return (
        rows.groupBy(*GROUP)
        .agg(
            F.count("*").alias("rows"),
            F.countDistinct("user_id").alias("users"),
            F.sum(F.col("label").cast("long")).alias("clicks"),
            (F.sum(loss.cast(_EXACT)).cast("double") / F.count("*")).alias("log_loss"),
            F.sum(F.col("score").cast(_EXACT)).cast("double").alias("_predicted"),
        )
        .withColumn("pcoc", F.when(F.col("clicks") > 0, F.col("_predicted") / F.col("clicks")))
        .drop("_predicted")
    )


def _counted(rows: DataFrame, *group: str) -> DataFrame:
    """Positives and negatives by group and score: ties are one row."""
    positive = F.col("label").cast("long")
    return rows.groupBy(*group, "score").agg(F.sum(positive).alias("pos"), F.sum(1 - positive).alias("neg"))


def _wins(below: Column) -> Column:
    """Twice the pairs that the positives of a score win: all negatives below, and half of those at the score."""
    return F.col("pos").cast("decimal(19, 0)") * (2 * below + F.col("neg")).cast("decimal(19, 0)")


def _auc(rows: DataFrame) -> DataFrame:
    """AUC by run and domain. Ranks within buckets of the score, so that no domain must fit one task."""
    bucket = F.floor(F.col("score") * _BUCKETS)
    counted = _counted(rows, *GROUP).withColumn("bucket", bucket)
    sizes = counted.groupBy(*GROUP, "bucket").agg(F.sum("neg").alias("size"))
    before = Window.partitionBy(*GROUP).orderBy("bucket").rowsBetween(Window.unboundedPreceding, -1)
    starts = sizes.select(*GROUP, "bucket", F.coalesce(F.sum("size").over(before), F.lit(0)).alias("start"))
    within = Window.partitionBy(*GROUP, "bucket").orderBy("score").rowsBetween(Window.unboundedPreceding, -1)
    placed = counted.join(F.broadcast(starts), [*GROUP, "bucket"])
    below = F.col("start") + F.coalesce(F.sum("neg").over(within), F.lit(0))
    wins = placed.withColumn("wins", _wins(below))
    return _ratio(wins.groupBy(*GROUP), *GROUP, value="auc")


def _ratio(grouped: object, *keep: str, value: str) -> DataFrame:
    sums: DataFrame = grouped.agg(  # type: ignore[attr-defined]
        F.sum("wins").cast("double").alias("wins"), F.sum("pos").alias("pos"), F.sum("neg").alias("neg")
    )
    pairs = F.col("pos").cast("double") * F.col("neg").cast("double")
    return sums.select(*keep, F.when(pairs > 0, F.col("wins") / (2 * pairs)).alias(value))


def gauc(rows: DataFrame) -> DataFrame:
    """Eq. 9 by run and domain: the AUC of each user with both classes, weighted by the user's impressions.

    Within a domain a user's impressions are those in it; for `overall`, all.
    """
    counted = _counted(rows, *GROUP, "user_id")
    before = Window.partitionBy(*GROUP, "user_id").orderBy("score").rowsBetween(Window.unboundedPreceding, -1)
    below = F.coalesce(F.sum("neg").over(before), F.lit(0))
    users = (
        counted.withColumn("wins", _wins(below))
        .groupBy(*GROUP, "user_id")
        .agg(F.sum("wins").alias("wins"), F.sum("pos").alias("pos"), F.sum("neg").alias("neg"))
        .where((F.col("pos") > 0) & (F.col("neg") > 0))
    )
    impressions = F.col("pos") + F.col("neg")
    auc = F.col("wins").cast("double") / (2.0 * F.col("pos") * F.col("neg"))
    return users.groupBy(*GROUP).agg(
        (F.sum((auc * impressions).cast(_EXACT)).cast("double") / F.sum(impressions)).alias("gauc"),
        F.count("*").alias("gauc_users"),
        F.sum(impressions).alias("gauc_rows"),
    )
