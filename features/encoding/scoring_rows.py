"""Check and clean the rows of a batch scoring job, raw or encoded.

A row to score is an impression that may lie in the future. Columns that become known only after the impression (label,
outcomes) are therefore not required. As in `star_ctr.features.cleaning`, no function drops rows: the column `reason`
contains the problem of a row, and is null for a valid row.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Literal

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.contracts.domains import OTHER_DOMAIN, OTHER_NAME
from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.features import list_read_columns
from star_ctr.conf.settings.label import LabelFromClicks
from star_ctr.conf.settings.root import DomainSettings, Settings
from star_ctr.features.cleaning.clean_log import UNKNOWN_DOMAIN, clean_log
from star_ctr.features.cleaning.log_columns import (
    add_nested_columns,
    list_declared_columns,
    list_required_columns,
    quote_name,
    require_columns,
)
from star_ctr.features.cleaning.source_rows import prepare_rows

CARRIED = "_star_ctr_carried"
"""The struct column with the input columns that are copied to the output."""
Policy = Literal["other", "drop", "fail"]
"""How to treat a row of a domain that the model does not know: score it as `other`, reject it, or fail the job."""
_ENCODED = {"domain_id": ("int", "bigint", "smallint", "tinyint"), "ints": ("binary",), "floats": ("binary",)}
"""The columns of encoded rows, with the types that each may have."""


def clean_raw_rows(
    settings: Settings, rows: DataFrame, layout: Layout, policy: Policy, carried: Sequence[str], where: str
) -> DataFrame:
    """Clean raw rows with the columns of the impression log, as ingest does.

    Unlike in ingest, the label and outcome columns are not required, times may lie in the future, and duplicates are
    searched among all rows. If the log has `sources`, the rows must already have the columns that the log declares.
    If it has `explode`, each row must have a single item instead of a list.

    A domain that the layout does not contain gets the name that it has in the statistics of a night: `other` if the
    settings declare `domains.known`, else the name in the row. With the policy `drop`, such a row gets a reason.

    Args:
        settings: The settings of the run that scores.
        rows: The raw rows.
        layout: The layout of the run's model.
        policy: How to treat unknown domains. `fail` keeps their names, and the caller raises the error.
        carried: The input columns to copy to the output, in the struct `CARRIED`.
        where: The name of the input, for messages.

    Returns:
        One row per raw row, with the columns of `clean_log` for the impression log, among them `reason` and `raw`.

    Raises:
        DataError: Required columns are missing, or `clean_log` rejects the columns.
    """
    scoring_settings = _drop_outcomes(settings, rows.columns)
    log = scoring_settings.logs.impressions
    if not log.sources:
        declared = list_declared_columns(settings, "impressions")
        rows = add_nested_columns(rows, declared - set(log.columns))
        rows = prepare_rows(log.model_copy(update={"explode": None}), rows, f"{where}: logs.impressions")
        rows = add_nested_columns(rows, declared)
    require_columns(rows.columns, list_required_columns(scoring_settings, "impressions"), f"{where}: logs.impressions")
    read = {f"{f.name}.{c}": c for f in settings.features for c in list_read_columns(f)}
    log_columns = {key: c.column for key, c in read.items() if c.table == "impressions"}
    require_columns(rows.columns, log_columns, f"{where}: features")
    carried_columns = {CARRIED: _make_struct(carried)} if carried else {}
    cleaned = clean_log(scoring_settings, "impressions", rows, carried_columns, compare_all=True)
    known, domain = F.col("domain").isin(layout.domains), F.col("domain")
    if policy == "drop":
        unknown = F.when(~known, F.concat(F.lit(f"{UNKNOWN_DOMAIN} "), domain))
        return cleaned.withColumn("reason", F.coalesce("reason", unknown))
    if policy == "other" and settings.domains.known is not None:
        return cleaned.withColumn("domain", F.when(known, domain).otherwise(OTHER_NAME))
    return cleaned


def _drop_outcomes(settings: Settings, columns: Sequence[str]) -> Settings:
    """Return settings that require only columns that are known when an impression is shown, and accept any domain."""
    log, after = settings.logs.impressions, settings.get_outcomes()
    types = {column: kind for column, kind in log.types.items() if column in columns and column not in after}
    time = log.time.model_copy(update={"latest": dt.date.max})  # rows may lie on any future day
    computed = {name: text for name, text in log.columns.items() if name not in after}
    explode = log.explode and log.explode.model_copy(update={"clicked": None})
    known = {"types": types, "time": time, "columns": computed, "explode": explode}
    log = log.model_copy(update={"outcomes": [], "weight": None, **known})
    return settings.model_copy(
        update={
            "logs": settings.logs.model_copy(update={"impressions": log}),
            "label": LabelFromClicks(window_hours=1.0),  # a label that requires no column of the row
            "domains": DomainSettings(),
        }
    )


def check_encoded_rows(
    rows: DataFrame, layout: Layout, policy: Policy, carried: Sequence[str], where: str
) -> DataFrame:
    """Check encoded rows, and add the name of their domain.

    Args:
        rows: Rows with `impression_id`, `user_id`, `domain_id`, `ints` and `floats`, as in the `split` table.
        layout: The layout of the model that scores.
        policy: How to treat unknown domains (`domain_id` 0); only `drop` gives them a reason here.
        carried: The input columns to copy to the output, in the struct `CARRIED`.
        where: The name of the input, for messages.

    Returns:
        One row per input row: `impression_id`, `user_id`, `domain` (null for an invalid row), `domain_id`, `ints` and
        `floats` (unchanged), `CARRIED` if `carried` is not empty, `reason`, and `raw` (an invalid row as JSON).

    Raises:
        DataError: A column is missing or has the wrong type.
    """
    require_columns(rows.columns, {c: c for c in ("impression_id", "user_id", *_ENCODED)}, f"{where}: --encoded")
    for column, kinds in _ENCODED.items():
        if (kind := dict(rows.dtypes)[column]) not in kinds:
            raise DataError(f"{where}: --encoded: `{column}` is {kind}, but must be {' or '.join(kinds)}")
    domain_id = F.col("domain_id")
    checks = [
        F.when(domain_id.isNull(), F.lit("domain_id: missing")),
        F.when(
            ~domain_id.between(0, len(layout.domains)), F.lit(f"domain_id: not between 0 and {len(layout.domains)}")
        ),
        *(_check_size(name, width) for name, width in (("ints", layout.int_count), ("floats", layout.float_count))),
    ]
    if policy == "drop":
        checks.append(F.when(domain_id == OTHER_DOMAIN, F.lit(UNKNOWN_DOMAIN)))
    reason = F.coalesce(*checks)
    names = F.array(*(F.lit(name) for name in layout.domain_index.names))
    return rows.select(
        F.col("impression_id").cast("string"),
        F.col("user_id").cast("string"),
        F.when(reason.isNull(), F.get(names, domain_id.try_cast("int"))).alias("domain"),
        domain_id.try_cast("int").alias("domain_id"),
        "ints",
        "floats",
        *([_make_struct(carried).alias(CARRIED)] if carried else []),
        reason.alias("reason"),
        F.when(reason.isNotNull(), F.to_json(F.struct(*(F.col(quote_name(c)) for c in rows.columns)))).alias("raw"),
    )


def _check_size(name: str, width: int) -> Column:
    """Return the reason if the binary column `name` does not contain `width` 4-byte values, null if it does."""
    has_size = F.coalesce(F.octet_length(name) == 4 * width, F.lit(False))
    return F.when(~has_size, F.lit(f"{name}: not {4 * width} bytes long, as the model's layout requires"))


def count_unknown_domains(rows: DataFrame, layout: Layout) -> DataFrame:
    """Count the valid rows of domains that the layout does not contain.

    Args:
        rows: The rows, from `clean_raw_rows` or `check_encoded_rows`.
        layout: The layout of the model that scores.

    Returns:
        One row per unknown domain, with `domain` and `count`, the most frequent domain first.
    """
    unknown = rows.where(F.col("reason").isNull() & ~F.col("domain").isin(layout.domains))
    return unknown.groupBy("domain").count().orderBy(F.desc("count"), "domain")


def _make_struct(columns: Sequence[str]) -> Column:
    return F.struct(*(F.col(quote_name(c)) for c in columns))
