"""Rows that are to be scored, raw or encoded: the columns asked of them, and what is wrong with those that cannot be.

A request is an impression that need not have happened yet: nothing that comes after it (label, outcomes) is asked for.
As in `cleaning`, every function keeps all rows: what is wrong with one stands in `reason` (null: nothing).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Literal

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.contracts.encoded_row import OTHER, OTHER_DOMAIN, Layout
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.features import list_read_columns
from star_ctr.conf.settings.label import LabelFromClicks
from star_ctr.conf.settings.root import DomainSettings, Settings
from star_ctr.features.cleaning.clean_log import UNKNOWN_DOMAIN, clean_log
from star_ctr.features.cleaning.log_columns import list_required_columns, quote_name, require

CARRIED = "_star_ctr_carried"
"""The struct of the columns that go along from input to output."""
Policy = Literal["other", "drop", "fail"]
"""What becomes of a row of a domain that the model does not know."""
_ENCODED = {"domain_id": ("int", "bigint", "smallint", "tinyint"), "ints": ("binary",), "floats": ("binary",)}


def clean_raw_rows(
    settings: Settings, rows: DataFrame, layout: Layout, policy: Policy, carried: Sequence[str], where: str
) -> DataFrame:
    """Rows of the impression log's own columns, cleaned as `clean` does, with `reason` and `raw`.

    A domain that the layout does not know goes by the name that it has in the night's statistics: `other` where the
    settings name the known ones, else its own. `DataError` that names each missing column, and `where` it is missing.
    """
    asked = _drop_outcomes(settings, rows.columns)
    require(rows.columns, list_required_columns(asked, "impressions"), f"{where}: logs.impressions")
    read = {f"{f.name}.{c}": c.partition(".") for f in settings.features for c in list_read_columns(f)}
    own = {key: column for key, (log, _, column) in read.items() if log == "impressions"}
    require(rows.columns, own, f"{where}: features")
    along = {CARRIED: _make_struct(carried)} if carried else {}
    cleaned = clean_log(asked, "impressions", rows, along, compare_all=True)
    known, domain = F.col("domain").isin(layout.domains), F.col("domain")
    if policy == "drop":
        unknown = F.when(~known, F.concat(F.lit(f"{UNKNOWN_DOMAIN} "), domain))
        return cleaned.withColumn("reason", F.coalesce("reason", unknown))
    if policy == "other" and settings.domains.known is not None:
        return cleaned.withColumn("domain", F.when(known, domain).otherwise(OTHER))
    return cleaned


def _drop_outcomes(settings: Settings, columns: Sequence[str]) -> Settings:
    """Settings that ask of an impression what is known when it is shown, and take domains as they come."""
    log, after = settings.logs.impressions, settings.outcomes()
    types = {column: kind for column, kind in log.types.items() if column in columns and column not in after}
    time = log.time.model_copy(update={"latest": dt.date.max})  # requests may be for any future day
    log = log.model_copy(update={"outcomes": [], "types": types, "time": time})
    return settings.model_copy(
        update={
            "logs": settings.logs.model_copy(update={"impressions": log}),
            "label": LabelFromClicks(window_hours=1.0),  # a label that no column of the row holds
            "domains": DomainSettings(),
        }
    )


def check_encoded_rows(
    rows: DataFrame, layout: Layout, policy: Policy, carried: Sequence[str], where: str
) -> DataFrame:
    """Rows with `ints`, `floats` and `domain_id` as they stand, `domain` by the layout's name, `reason` and `raw`."""
    require(rows.columns, {c: c for c in ("impression_id", "user_id", *_ENCODED)}, f"{where}: --encoded")
    for column, kinds in _ENCODED.items():
        if (kind := dict(rows.dtypes)[column]) not in kinds:
            raise DataError(f"{where}: --encoded: `{column}` is {kind}, and not {' or '.join(kinds)}")
    number = F.col("domain_id")
    checks = [
        F.when(number.isNull(), F.lit("domain_id: missing")),
        F.when(~number.between(0, len(layout.domains)), F.lit(f"domain_id: not of 0 to {len(layout.domains)}")),
        *(_check_size(name, width) for name, width in (("ints", layout.ints), ("floats", layout.floats))),
    ]
    if policy == "drop":
        checks.append(F.when(number == OTHER_DOMAIN, F.lit(UNKNOWN_DOMAIN)))
    reason = F.coalesce(*checks)
    names = F.array(*(F.lit(name) for name in (OTHER, *layout.domains)))
    return rows.select(
        F.col("impression_id").cast("string"),
        F.col("user_id").cast("string"),
        F.when(reason.isNull(), F.get(names, number.try_cast("int"))).alias("domain"),
        number.try_cast("int").alias("domain_id"),
        "ints",
        "floats",
        *([_make_struct(carried).alias(CARRIED)] if carried else []),
        reason.alias("reason"),
        F.when(reason.isNotNull(), F.to_json(F.struct(*(F.col(quote_name(c)) for c in rows.columns)))).alias("raw"),
    )


def _check_size(name: str, width: int) -> Column:
    fits = F.coalesce(F.octet_length(name) == 4 * width, F.lit(False))
    return F.when(~fits, F.lit(f"{name}: not of the {4 * width} bytes that the model's layout says"))


def count_unknown_domains(requests: DataFrame, layout: Layout) -> DataFrame:
    """The domains of good rows that the layout does not know, with their rows (`count`), the largest first."""
    unknown = requests.where(F.col("reason").isNull() & ~F.col("domain").isin(layout.domains))
    return unknown.groupBy("domain").count().orderBy(F.desc("count"), "domain")


def _make_struct(columns: Sequence[str]) -> Column:
    return F.struct(*(F.col(quote_name(c)) for c in columns))
