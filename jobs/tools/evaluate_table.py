"""Evaluation of external scores: compute the metrics of a table or file of scores that another system made.

Each day is evaluated separately. Nothing is written, so the scores may belong to any data set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from star_ctr.conf.contracts.domains import OVERALL, domain_sort_key
from star_ctr.conf.errors import DataError, suggest_nearest
from star_ctr.conf.settings.evaluate import EvaluateSettings
from star_ctr.conf.settings.sources import Log
from star_ctr.features.cleaning.log_columns import CORRUPT, get_column
from star_ctr.features.cleaning.text import check_key, is_undecodable, to_number, to_text
from star_ctr.features.evaluation.bootstrap import INTERVALS
from star_ctr.features.evaluation.metrics import METRICS, compute_metrics
from star_ctr.jobs.io.external_tables import extract_reason, open_external_table
from star_ctr.jobs.io.session import SPARK_ERRORS

_ALL = "all"
"""Value of the domain and the day if the table has no column for it."""


@dataclass(frozen=True)
class ScoreTable:
    """An external table or file of scores, and the names of the columns to evaluate.

    Attributes:
        path: Path or URL of a Delta or Parquet table, or of a CSV file with a header (`.csv` or `.csv.gz`).
        user: Column of the user id.
        label: Column of the label, 0 or 1.
        score: Column of the predicted CTR, in [0, 1].
        domain: Column of the domain; if None, only overall metrics are computed.
        ds: Column of the day; if None, all rows are evaluated together.
    """

    path: str
    user: str
    label: str
    score: str
    domain: str | None = None
    ds: str | None = None

    def columns(self) -> dict[str, str]:
        """Return the columns by the command-line option that names them, without those that are None."""
        given = {"--user-col": self.user, "--domain-col": self.domain, "--label-col": self.label}
        given |= {"--score-col": self.score, "--ds-col": self.ds}
        return {option: column for option, column in given.items() if column is not None}


def run(spark: SparkSession, scored: ScoreTable, evaluate: EvaluateSettings) -> list[dict[str, Any]]:
    """Compute the metrics of external scores.

    Args:
        spark: The session.
        scored: The table and its columns.
        evaluate: The settings of intervals.

    Returns:
        One row per day and domain, `overall` last: ds (None if the table has no such column), domain, METRICS and
        INTERVALS.

    Raises:
        DataError: A column is missing, the table has no rows, or rows cannot be evaluated; the message counts them.
    """
    table = read_table(spark, scored.path)
    for option, column in scored.columns().items():
        if column not in table.columns:
            nearest = suggest_nearest(column, table.columns)
            raise DataError(
                f"{scored.path}: {option}: no column `{column}`{nearest} (columns: {', '.join(table.columns)})"
            )
    rows = _select_rows(table, scored).persist()
    try:
        _check_rows(rows, scored)
        found = compute_metrics(rows.withColumnRenamed("ds", "run_id"), evaluate).collect()
    finally:
        rows.unpersist()
    metrics = [
        {"ds": r.run_id if scored.ds else None, "domain": r.domain, **{c: r[c] for c in (*METRICS, *INTERVALS)}}
        for r in found
        if scored.domain or r.domain == OVERALL
    ]
    return sorted(metrics, key=lambda r: (r["ds"] or "", domain_sort_key(r["domain"])))


def read_table(spark: SparkSession, path: str) -> DataFrame:
    """Read a Delta or Parquet table, or a CSV file.

    Args:
        spark: The Spark session.
        path: Path or URL of the table or of the file.

    Returns:
        The rows. All values of a CSV file are text. A line with more or fewer fields than the header is kept in the
        column CORRUPT.

    Raises:
        DataError: The path is neither such a table nor a CSV file, or it cannot be read.
    """
    try:
        if not _is_csv(path):
            return open_external_table(spark, path).rows
        # Disable column pruning: the parser detects a surplus field only if it reads all columns.
        reader = spark.read.option("header", "true").option("escape", '"').option("columnPruning", "false")
        header = reader.csv(path).columns
        schema = StructType([StructField(name, StringType()) for name in (*header, CORRUPT)])
        return reader.schema(schema).option("columnNameOfCorruptRecord", CORRUPT).csv(path)
    except SPARK_ERRORS as error:
        raise DataError(f"{path}: neither a Delta or Parquet table nor a .csv file: {extract_reason(error)}") from None


def _is_csv(path: str) -> bool:
    return path.removesuffix(".gz").endswith(".csv")


def _select_rows(table: DataFrame, scored: ScoreTable) -> DataFrame:
    """Select the columns to evaluate: keys as canonical text, each with the reason why it is invalid (else null)."""
    log = Log(path=scored.path, format="csv" if _is_csv(scored.path) else "parquet")
    types = {f.name: f.dataType for f in table.schema.fields}
    columns: list[Column] = []
    keys = {"ds": scored.ds, "user_id": scored.user, "domain": scored.domain}
    for name, column in keys.items():
        if column is None:
            columns += [F.lit(_ALL).alias(name), F.lit(None).cast("string").alias(f"{name}_problem")]
            continue
        text = to_text(log, get_column(column), types[column])
        problem = F.when(is_undecodable(text, log), F.lit(f"{column}: text that is not UTF-8"))
        problem = F.coalesce(problem, check_key(log, text, get_column(column), types[column], column))
        columns += [text.alias(name), problem.alias(f"{name}_problem")]
    broken = F.col(CORRUPT).isNotNull() if CORRUPT in table.columns else F.lit(False)
    return table.select(
        *columns,
        # The column may be typed (a boolean or a number) or, in a CSV file, text such as `true` or `1.0`.
        *(F.coalesce(get_column(column).try_cast("double"), to_number(get_column(column).cast("string"))).alias(name)
          for name, column in (("label", scored.label), ("score", scored.score))),
        broken.alias("broken"),
    )  # fmt: skip


def _check_rows(rows: DataFrame, scored: ScoreTable) -> None:
    """Raise `DataError` if rows cannot be evaluated, with their number by problem and the option of the column."""
    domain = F.when(F.col("domain") == OVERALL, F.lit(f"{scored.domain}: the domain name `{OVERALL}` is reserved"))
    keys = {
        "--user-col": F.col("user_id_problem"),
        "--domain-col": F.coalesce("domain_problem", domain),
        "--ds-col": F.col("ds_problem"),
    }
    invalid_values = {
        "--label-col": ("labels that are not 0 or 1", _is_not_true(F.col("label").isin(0, 1))),
        "--score-col": (
            "scores that are missing, not numeric or outside [0, 1]",
            _is_not_true(F.col("score").between(0, 1)),
        ),
    }  # fmt: skip
    counts = [F.count_if(c).alias(o) for o, (_, c) in invalid_values.items()]
    for option, problem in keys.items():
        counts += [F.count(problem).alias(option), F.min(problem).alias(f"{option} why")]
    found = rows.agg(F.count("*").alias("rows"), F.count_if("broken").alias("broken"), *counts).first()
    assert found is not None
    if found.rows == 0:
        raise DataError(f"{scored.path}: the table has no rows")
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
        for option, (what, _) in invalid_values.items()
        if found[option]
    ]
    if problems:
        raise DataError(f"{scored.path}: " + "; ".join(problems))


def _is_not_true(condition: Column) -> Column:
    """Return whether a condition is false or null."""
    return ~F.coalesce(condition, F.lit(False))
