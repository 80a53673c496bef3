"""Simulate: write the simulated logs that the section `simulate` of the configuration declares.

The logs are written to these folders in `paths.logs`:

    impressions/ds=…/*.parquet  clicks/ds=…/*.json.gz  behaviours/*.parquet  users/ds=…/*.parquet  items/*.parquet

The folder `truth/` next to them contains the true click rate of every impression. No step of a night reads it.
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

ROWS_PER_FILE = 1_000_000
"""Maximum number of rows per file."""
BEHAVIOURS_PER_USER = 15
"""Mean number of events per user in the log `behaviours`."""
REPARTITIONED_BY_DAY = ("clicks", "users")
"""Logs that are repartitioned by day. Otherwise, every task would write a small file for each of its days."""


def run(settings: Settings, spark: SparkSession, ds: str | None = None) -> dict[str, int]:
    """Write all logs, replacing existing ones.

    Args:
        settings: The data set; its section `simulate` is required.
        spark: The session.
        ds: Unused; every job that `spark-submit` runs accepts a day.

    Returns:
        The number of rows of each log.

    Raises:
        ConfigError: The configuration has no section `simulate`.
    """
    s = settings.simulate
    if s is None:
        raise ConfigError(f"{settings.name}: the section `simulate` is missing; see conf/demo.yaml for an example")
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
        "behaviours": (out.make_behaviour_log(s, _make_range(spark, s.users * BEHAVIOURS_PER_USER)), "parquet", None),
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
        if partition and name in REPARTITIONED_BY_DAY:
            log = log.repartition(partition)
        writer = log.write.mode("overwrite").option("maxRecordsPerFile", ROWS_PER_FILE).format(kind)
        if kind == "json":
            writer = writer.option("compression", "gzip")
        (writer.partitionBy(partition) if partition else writer).save(f"{root}/{name}")
        written[name] = spark.read.schema(log.schema).format(kind).load(f"{root}/{name}").count()
    return written


def _make_range(spark: SparkSession, n: int) -> DataFrame:
    """Make rows with the ids 0 to n - 1, in order, in at least as many partitions as there should be files."""
    # Impressions are numbered by day, so a partition contains the rows of few consecutive days. Its task can write them
    # without a shuffle.
    files = -(-n // ROWS_PER_FILE)
    return spark.range(0, n, 1, max(files, spark.sparkContext.defaultParallelism))


if __name__ == "__main__":
    run_submitted("simulate", run)
