"""Simulate: the logs that the configuration's `simulate` section declares, below `paths.logs`.

    impressions/ds=…/*.parquet  clicks/ds=…/*.json.gz  behaviours/*.parquet  users/ds=…/*.parquet  items/*.parquet

and beside them `truth/`, the true click rate of every impression, which no step of the night reads.
"""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.errors import ConfigError
from star_ctr.conf.settings.root import Settings
from star_ctr.features.simulation import clicks as clicking
from star_ctr.features.simulation import impressions as sim
from star_ctr.features.simulation import logs as out
from star_ctr.jobs.io.session import run_submitted

ROWS_A_FILE = 1_000_000
BEHAVIOURS_A_USER = 15
FEW_ROWS_A_DAY = ("clicks", "users")
"""Logs brought together by day first: else every task would write a small file for every day that it meets."""


def run(settings: Settings, spark: SparkSession, ds: str | None = None) -> dict[str, int]:
    """Write all logs anew; returns their rows."""
    s = settings.simulate
    if s is None:
        raise ConfigError(f"{settings.name}: has no `simulate` section; conf/demo.yaml shows one")
    root = settings.paths.logs.rstrip("/")
    shown = sim.make_impressions(s, _make_range(spark, s.impressions)).withColumn(
        "preference", clicking.compute_preference(s)
    )
    counts = [(r.domain, r.level, r.n) for r in clicking.count_thresholds(s, shown).collect()]
    rows = clicking.add_clicks(s, shown, clicking.fit_biases(counts))
    days = spark.range(-1, s.days).withColumnRenamed("id", "day")
    snapshots = spark.range(s.users).crossJoin(F.broadcast(days))
    logs = {
        "impressions": (out.make_impression_log(s, rows), "parquet", "ds"),
        "clicks": (out.make_click_log(s, rows), "json", "ds"),
        "behaviours": (out.make_behaviour_log(s, _make_range(spark, s.users * BEHAVIOURS_A_USER)), "parquet", None),
        "users": (sim.make_users(s, snapshots).withColumn("ds", F.col("day")), "parquet", "ds"),
        "items": (sim.make_items(s, spark.range(s.items)), "parquet", None),
        "truth": (
            rows.select(
                out.format_impression_id(F.col("id")).alias("impression_id"),
                "true_rate",
                sim.format_day(s, F.col("day")).alias("ds"),
            ),
            "parquet",
            "ds",
        ),
    }
    written = {}
    for name, (log, kind, partition) in logs.items():
        if partition and name in FEW_ROWS_A_DAY:
            log = log.repartition(partition)
        writer = log.write.mode("overwrite").option("maxRecordsPerFile", ROWS_A_FILE).format(kind)
        if kind == "json":
            writer = writer.option("compression", "gzip")
        (writer.partitionBy(partition) if partition else writer).save(f"{root}/{name}")
        written[name] = spark.read.schema(log.schema).format(kind).load(f"{root}/{name}").count()
    return written


def _make_range(spark: SparkSession, n: int) -> DataFrame:
    """Rows (id), 0 to n - 1, in order and in as many partitions as there should be files.

    Impressions are numbered by day, so a partition holds a day's rows or those of two: its task writes them
    as they are, and no row is shuffled.
    """
    files = -(-n // ROWS_A_FILE)
    return spark.range(0, n, 1, max(files, spark.sparkContext.defaultParallelism))


if __name__ == "__main__":
    run_submitted("simulate", run)
