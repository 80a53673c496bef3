"""Judged: the metrics of scores that this system did not make, read from a table or file as they lie.

Each day is judged for itself. Nothing is written: what is judged may be of any data set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from star_ctr.conf.contracts.encoded_row import OVERALL, domain_sort_key
from star_ctr.conf.errors import DataError, suggest_nearest
from star_ctr.conf.settings.logs import Log
from star_ctr.conf.settings.root import EvaluateSettings
from star_ctr.features.cleaning.log_columns import CORRUPT, get_column
from star_ctr.features.cleaning.text import check_key, is_undecodable, to_number, to_text
from star_ctr.features.evaluation.bootstrap import INTERVALS
from star_ctr.features.evaluation.metrics import METRICS, compute_metrics
from star_ctr.jobs.io.external_tables import NOT_READ, extract_reason, open_external_table

_ALL = "all"


@dataclass(frozen=True)
class ScoreColumns:
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


def run(spark: SparkSession, scored: ScoreColumns, evaluate: EvaluateSettings) -> list[dict[str, Any]]:
    """One row a day and domain, `overall` last: ds (None without such a column), domain, METRICS and INTERVALS.

    `DataError` where a column is missing, there are no rows, or rows cannot be judged; it counts them.
    """
    table = read(spark, scored.path)
    for option, column in scored.columns().items():
        if column not in table.columns:
            there = ", ".join(table.columns)
            raise DataError(
                f"{scored.path}: {option}: no column `{column}`{suggest_nearest(column, table.columns)}; it has {there}"
            )
    rows = _select_rows(table, scored).persist()
    try:
        _check(rows, scored)
        found = compute_metrics(rows.withColumnRenamed("ds", "run_id"), evaluate).collect()
    finally:
        rows.unpersist()
    judged = [
        {"ds": r.run_id if scored.ds else None, "domain": r.domain, **{c: r[c] for c in (*METRICS, *INTERVALS)}}
        for r in found
        if scored.domain or r.domain == OVERALL
    ]
    return sorted(judged, key=lambda r: (r["ds"] or "", domain_sort_key(r["domain"])))


def read(spark: SparkSession, path: str) -> DataFrame:
    """Read a Delta or Parquet table, or a CSV file, whose values stay text; raises `DataError` for anything else.

    A line of a CSV file with more or fewer fields than the header is kept in the column `CORRUPT`.
    """
    try:
        if not _is_csv(path):
            return open_external_table(spark, path).rows
        # Without pruning: only a parser that reads all columns sees a surplus field.
        reader = spark.read.option("header", "true").option("escape", '"').option("columnPruning", "false")
        header = reader.csv(path).columns
        schema = StructType([StructField(name, StringType()) for name in (*header, CORRUPT)])
        return reader.schema(schema).option("columnNameOfCorruptRecord", CORRUPT).csv(path)
    except NOT_READ as error:
        raise DataError(f"{path}: neither a Delta or Parquet table nor a .csv file: {extract_reason(error)}") from None


def _is_csv(path: str) -> bool:
    return path.removesuffix(".gz").endswith(".csv")


def _select_rows(table: DataFrame, scored: ScoreColumns) -> DataFrame:
    """Select the columns to evaluate: keys as canonical text, each with the reason why it is invalid (null: valid)."""
    log = Log(path=scored.path, format="csv" if _is_csv(scored.path) else "parquet")
    types = {f.name: f.dataType for f in table.schema.fields}
    columns: list[Column] = []
    keys = {"ds": scored.ds, "user_id": scored.user, "domain": scored.domain}
    for name, column in keys.items():
        if column is None:
            columns += [F.lit(_ALL).alias(name), F.lit(None).cast("string").alias(f"{name}_problem")]
            continue
        text = to_text(log, get_column(column), types[column])
        wrong = F.when(is_undecodable(text, log), F.lit(f"{column}: text that is not UTF-8"))
        wrong = F.coalesce(wrong, check_key(log, text, get_column(column), types[column], column))
        columns += [text.alias(name), wrong.alias(f"{name}_problem")]
    broken = F.col(CORRUPT).isNotNull() if CORRUPT in table.columns else F.lit(False)
    return table.select(
        *columns,
        # In a CSV file, `true` and `1.0` are text; in a table, they have a type.
        *(F.coalesce(get_column(column).try_cast("double"), to_number(get_column(column).cast("string"))).alias(name)
          for name, column in (("label", scored.label), ("score", scored.score))),
        broken.alias("broken"),
    )  # fmt: skip


def _check(rows: DataFrame, scored: ScoreColumns) -> None:
    """`DataError` that counts the rows which cannot be judged, with the option of the column that is to blame."""
    domain = F.when(F.col("domain") == OVERALL, F.lit(f"{scored.domain}: a domain called `{OVERALL}`"))
    keys = {
        "--user-col": F.col("user_id_problem"),
        "--domain-col": F.coalesce("domain_problem", domain),
        "--ds-col": F.col("ds_problem"),
    }
    bad = {
        "--label-col": ("labels that are not 0 or 1", _is_not_true(F.col("label").isin(0, 1))),
        "--score-col": (
            "scores that are missing, no numbers or not in [0, 1]",
            _is_not_true(F.col("score").between(0, 1)),
        ),
    }  # fmt: skip
    counts = [F.count_if(c).alias(o) for o, (_, c) in bad.items()]
    for option, problem in keys.items():
        counts += [F.count(problem).alias(option), F.min(problem).alias(f"{option} why")]
    found = rows.agg(F.count("*").alias("rows"), F.count_if("broken").alias("broken"), *counts).first()
    assert found is not None
    if found.rows == 0:
        raise DataError(f"{scored.path}: holds no rows")
    columns = scored.columns()
    problems = (
        [f"{found.broken:,} of {found.rows:,} lines have more or fewer fields than the header"] if found.broken else []
    )
    problems += [
        f"{found[option]:,} of {found.rows:,} rows cannot be used: {found[f'{option} why']} ({option})"
        for option in keys
        if found[option]
    ]
    problems += [
        f"{found[option]:,} of {found.rows:,} rows have {what} ({option} {columns[option]})"
        for option, (what, _) in bad.items()
        if found[option]
    ]
    if problems:
        raise DataError(f"{scored.path}: " + "; ".join(problems))


def _is_not_true(condition: Column) -> Column:
    """Whether a condition fails, or cannot be told for want of a value."""
    return ~F.coalesce(condition, F.lit(False))
