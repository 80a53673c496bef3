"""Simulate: the logs that the configuration's `simulate` section declares, below `paths.logs`.

    impressions/ds=…/*.parquet  clicks/ds=…/*.json.gz  behaviours/*.parquet  users/ds=…/*.parquet  items/*.parquet

and beside them `truth/`, the true click rate of every impression, which no step of the night reads.
"""

from __future__ import annotations

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.errors import ConfigError
from star_ctr.conf.settings import Settings
from star_ctr.features import simulated_logs as out
from star_ctr.features import simulation as sim
from star_ctr.jobs.session import submitted

ROWS_A_FILE = 1_000_000
BEHAVIOURS_A_USER = 15


def run(settings: Settings, spark: SparkSession, ds: str | None = None) -> dict[str, int]:
    """Write all logs anew; returns their rows."""
    s = settings.simulate
    if s is None:
        raise ConfigError(f"{settings.name}: has no `simulate` section; conf/demo.yaml shows one")
    root = settings.paths.logs.rstrip("/")
    shown = sim.impressions(s, spark.range(s.impressions)).withColumn("preference", sim.preference(s))
    counts = [(r.domain, r.level, r.n) for r in sim.histogram(s, shown).collect()]
    rows = sim.with_clicks(s, shown, sim.levels(counts))
    days = spark.range(-1, s.days).withColumnRenamed("id", "day")
    snapshots = spark.range(s.users).crossJoin(F.broadcast(days))
    logs = {
        "impressions": (out.impression_log(s, rows), "parquet", "ds"),
        "clicks": (out.click_log(s, rows), "json", "ds"),
        "behaviours": (out.behaviour_log(s, spark.range(s.users * BEHAVIOURS_A_USER)), "parquet", None),
        "users": (sim.users(s, snapshots).withColumn("ds", F.col("day")), "parquet", "ds"),
        "items": (sim.items(s, spark.range(s.items)), "parquet", None),
        "truth": (
            rows.select(
                out.impression_id(F.col("id")).alias("impression_id"),
                "true_rate",
                sim.day_text(s, F.col("day")).alias("ds"),
            ),
            "parquet",
            "ds",
        ),
    }
    written = {}
    for name, (log, kind, partition) in logs.items():
        if partition:
            log = log.repartition(partition)
        writer = log.write.mode("overwrite").option("maxRecordsPerFile", ROWS_A_FILE).format(kind)
        if kind == "json":
            writer = writer.option("compression", "gzip")
        (writer.partitionBy(partition) if partition else writer).save(f"{root}/{name}")
        written[name] = spark.read.format(kind).load(f"{root}/{name}").count()
    return written


if __name__ == "__main__":
    submitted("simulate", run)
