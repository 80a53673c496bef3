"""Judged: the metrics of scores that this system did not make, read from a table or file as they lie.

Each day is judged for itself. Nothing is written: what is judged may be of any data set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.errors import DataError, nearest
from star_ctr.conf.layout import OVERALL, natural
from star_ctr.conf.settings import EvaluateSettings
from star_ctr.features.bootstrap import INTERVALS
from star_ctr.features.metrics import METRICS, by_domain
from star_ctr.jobs.given import NOT_READ, first_line, opened

_ALL = "all"


@dataclass(frozen=True)
class Scored:
    """A Delta or Parquet table, or a CSV file (`.csv`, also gzipped) with a header, and its columns.

    `label`: 0 or 1; `score`: predicted click rate in [0, 1]. Without `domain` all rows are one, without `ds` one day.
    """

    path: str
    user: str
    label: str
    score: str
    domain: str | None = None
    ds: str | None = None

    def columns(self) -> dict[str, str]:
        """The option that names each column."""
        given = {"--user-col": self.user, "--domain-col": self.domain, "--label-col": self.label}
        given |= {"--score-col": self.score, "--ds-col": self.ds}
        return {option: column for option, column in given.items() if column is not None}


def run(spark: SparkSession, scored: Scored, evaluate: EvaluateSettings) -> list[dict[str, Any]]:
    """One row a day and domain, `overall` last: ds (None without such a column), domain, METRICS and INTERVALS.

    `DataError` where a column is missing, there are no rows, or rows cannot be judged; it counts them.
    """
    table = read(spark, scored.path)
    for option, column in scored.columns().items():
        if column not in table.columns:
            there = ", ".join(table.columns)
            raise DataError(
                f"{scored.path}: {option}: no column `{column}`{nearest(column, table.columns)}; it has {there}"
            )
    rows = _rows(table, scored).persist()
    try:
        _check(rows, scored)
        found = by_domain(rows.withColumnRenamed("ds", "run_id"), evaluate).collect()
    finally:
        rows.unpersist()
    judged = [
        {"ds": r.run_id if scored.ds else None, "domain": r.domain, **{c: r[c] for c in (*METRICS, *INTERVALS)}}
        for r in found
        if scored.domain or r.domain == OVERALL
    ]
    return sorted(judged, key=lambda r: (r["ds"] or "", natural(r["domain"])))


def read(spark: SparkSession, path: str) -> DataFrame:
    """A Delta or Parquet table, or a CSV file, whose values stay text; `DataError` where it is none of them."""
    try:
        if path.removesuffix(".gz").endswith(".csv"):
            return spark.read.option("header", "true").option("escape", '"').csv(path)
        return opened(spark, path).rows
    except NOT_READ as error:
        raise DataError(f"{path}: neither a Delta or Parquet table nor a .csv file: {first_line(error)}") from None


def _rows(table: DataFrame, scored: Scored) -> DataFrame:
    def text(column: str | None) -> Column:
        return F.lit(_ALL) if column is None else table[f"`{column}`"].cast("string")

    return table.select(
        text(scored.ds).alias("ds"),
        text(scored.user).alias("user_id"),
        text(scored.domain).alias("domain"),
        *(table[f"`{column}`"].try_cast("double").alias(name)
          for name, column in (("label", scored.label), ("score", scored.score))),
    )  # fmt: skip


def _check(rows: DataFrame, scored: Scored) -> None:
    """`DataError` that counts the rows which cannot be judged, with the option of the column that is to blame."""
    bad = {
        "--user-col": ("no user", F.col("user_id").isNull()),
        "--domain-col": (f"no domain, or one called `{OVERALL}`", _not(F.col("domain") != OVERALL)),
        "--ds-col": ("no day", F.col("ds").isNull()),
        "--label-col": ("labels that are not 0 or 1", _not(F.col("label").isin(0, 1))),
        "--score-col": (
            "scores that are missing, no numbers or not in [0, 1]",
            _not(F.col("score").between(0, 1)),
        ),
    }  # fmt: skip
    found = rows.agg(F.count("*").alias("rows"), *(F.count_if(c).alias(o) for o, (_, c) in bad.items())).first()
    assert found is not None
    if found.rows == 0:
        raise DataError(f"{scored.path}: holds no rows")
    columns = scored.columns()
    told = [
        f"{found[option]:,} of {found.rows:,} rows have {what} ({option} {columns[option]})"
        for option, (what, _) in bad.items()
        if found[option]
    ]
    if told:
        raise DataError(f"{scored.path}: " + "; ".join(told))


def _not(condition: Column) -> Column:
    """Whether a condition fails, or cannot be told for want of a value."""
    return ~F.coalesce(condition, F.lit(False))
