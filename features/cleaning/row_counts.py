"""Count cleaned rows by day, domain, reason and hour, for the ledger and the profile."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F


def count_rows(rows: DataFrame, zone: str) -> DataFrame:
    """Count cleaned rows.

    Args:
        rows: Cleaned rows, from `clean_log`.
        zone: The time zone of the hours.

    Returns:
        The columns `ds`, `domain` (`unknown` if a row has none; `all` if the log has no domains), `reason` (empty for
        valid rows), `hour` (0 to 23; null for invalid rows and rows without a time), and `rows`.
    """
    domain = F.coalesce("domain", F.lit("unknown")) if "domain" in rows.columns else F.lit("all")
    # A row with a reason may have an implausible time.
    ts = F.when(F.col("reason").isNull(), F.col("ts")) if "ts" in rows.columns else F.lit(None).cast("timestamp")
    hour = F.hour(F.from_utc_timestamp(ts, zone))
    by = {"domain": domain, "reason": F.coalesce("reason", F.lit("")), "hour": hour}
    return (
        rows.select("ds", *(value.alias(name) for name, value in by.items()))
        .groupBy("ds", *by)
        .agg(F.count("*").alias("rows"))
    )
