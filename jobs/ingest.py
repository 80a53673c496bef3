"""Ingest: the daily logs of the training window and the day itself into clean Delta tables.

Exact duplicates are dropped and counted, rows that cannot be used go to `quarantine` whole and with a
reason, and `ledger` balances: rows read = written + duplicates + quarantined, by log, day and domain.

    spark-submit --packages io.delta:delta-spark_2.13:4.0.1 jobs/ingest.py --conf conf/kuairand.yaml
"""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.days import BEFORE_FIRST_DAY, NO_DAY, valid_day, window
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings import Settings
from star_ctr.features.cleaning import DUPLICATE, UNKNOWN_DAY, clean, counted, whole
from star_ctr.jobs import logs
from star_ctr.jobs.log_files import REACH_BACK, dated, location
from star_ctr.jobs.session import submitted
from star_ctr.jobs.store import Store, among, by_day


def run(settings: Settings, spark: SparkSession, ds: str | None = None) -> dict[str, int]:
    """Write the tables of all declared logs; returns the rows written by log."""
    ds = valid_day(ds) if ds else newest_day(settings, spark)
    store = Store(settings, spark)
    return {name: _ingest(settings, store, name, ds) for name in settings.logs.declared()}


def newest_day(settings: Settings, spark: SparkSession) -> str:
    """The newest day that the impression log holds rows of."""
    log = settings.logs.impressions
    if dated(log):
        days = logs.days_of_files(settings, spark, log)
    else:
        raw = logs.read(settings, spark, "impressions", None)
        assert raw is not None
        good = clean(settings, "impressions", raw).where(F.col("reason").isNull())
        days = [row.ds for row in good.agg(F.max("ds").alias("ds")).collect() if row.ds]
    if not days:
        raise DataError(f"logs.impressions.path: no usable row in {location(settings, log)}")
    return days[-1]


def _ingest(settings: Settings, store: Store, name: str, ds: str) -> int:
    days = window(settings, ds)
    log = settings.logs.declared()[name]
    reaches_back = name in REACH_BACK
    raw = logs.read(settings, store.spark, name, None if reaches_back else days)
    rows = None if raw is None else clean(settings, name, raw)
    if rows is None:
        if name == "impressions":
            raise DataError(f"logs.impressions.path: no file of {days[0]} to {ds} in {location(settings, log)}")
        return 0
    undated = [NO_DAY, BEFORE_FIRST_DAY, UNKNOWN_DAY]
    wanted = F.expr(among("ds", undated)) | (F.col("ds") <= ds if reaches_back else F.col("ds").isin(days))
    rows = rows.where(wanted).persist()
    ledger = counted(rows, F.col("domain") if name == "impressions" else F.lit("all")).persist()
    try:
        found = [row.ds for row in ledger.select("ds").distinct().collect()]
        if name == "impressions" and ds not in found:
            raise DataError(
                f"{location(settings, log)}: no row of day {ds}; the newest day there is "
                f"{newest_day(settings, store.spark)}"
            )
        replaced = sorted({*found, *days, *undated})
        where = among("ds", replaced)
        order = ["key"] if name in ("users", "items") else ["user_id", "ts"] if "user_id" in rows.columns else ["ts"]
        good = rows.where(F.col("reason").isNull()).drop("reason", "raw")
        good = _strings_for_void(good)
        store.replace(name, by_day(good).sortWithinPartitions("ds", *order), where)
        left_out = rows.where(F.col("reason").isNotNull() & (F.col("reason") != DUPLICATE))
        quarantined = left_out.select(F.lit(name).alias("log"), "ds", "reason", whole(left_out).alias("row"))
        store.replace("quarantine", by_day(quarantined), f"log = '{name}' AND {where}")
        step = "ingest" if name == "impressions" else f"ingest.{name}"
        store.write_ledger(step, ledger, replaced)
        return int(ledger.agg(F.sum("rows_out")).first()[0] or 0)  # type: ignore[index]
    finally:
        ledger.unpersist()
        rows.unpersist()


def _strings_for_void(rows: DataFrame) -> DataFrame:
    """Delta cannot hold a column without a type (a JSON key that is null in every row): such a one is text."""
    return rows.select(
        *(F.col(f"`{c}`").cast("string").alias(c) if kind == "void" else F.col(f"`{c}`") for c, kind in rows.dtypes)
    )


if __name__ == "__main__":
    submitted("ingest", run)
