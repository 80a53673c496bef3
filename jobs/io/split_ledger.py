"""The rows of a split by part and domain: which are left out and why, and their ledger entries."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.contracts.column_names import name_outcome_label
from star_ctr.conf.contracts.domains import OTHER_NAME
from star_ctr.conf.contracts.encoded_row import TRAIN
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.label import LabelFromClicks
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.warehouse import LedgerEntry, WarehouseTables, quote_spark_literal

UNKNOWN_DOMAIN = "domain unknown in training"
OPEN_LABEL = "label still open"
"""Reason of training rows whose label is not final. With `label.open: keep`, they are counted and trained on."""
UNKNOWN_OUTCOME = "outcome not known yet"
"""Reason of training rows that do not train the head of a further outcome."""
ZERO_WEIGHT = "weight 0"
"""Reason of training rows that are left out because their weight is 0, whether their label is final or not."""


class RowCount(NamedTuple):
    """Number of rows of a day, part and domain with the same reason; empty for test rows and most training rows."""

    ds: str
    part: str
    domain: str
    rows: int
    reason: str
    is_left_out: bool


def is_left_out(settings: Settings) -> Column:
    """Return whether a training row is left out because its label is open or its weight is 0."""
    is_dropped = isinstance(settings.label, LabelFromClicks) and settings.label.open == "drop"
    return _has_zero_weight(settings) | (~F.col("label_final") if is_dropped else F.lit(False))


def _has_zero_weight(settings: Settings) -> Column:
    return F.col("weight") == 0 if settings.logs.impressions.weight else F.lit(False)


def count_rows(settings: Settings, rows: DataFrame, is_test: Column) -> list[RowCount]:
    """Count the rows of a split.

    Args:
        settings: The data set.
        rows: The rows, with `domain` and `label_final`, and `weight` if the settings declare a weight.
        is_test: Whether a row is a test row.

    Returns:
        The counts, sorted.
    """
    part = F.when(is_test, "test").otherwise("train").alias("part")
    open_label = F.when(~F.col("label_final"), F.lit(OPEN_LABEL))
    reason = F.when(~is_test, F.when(_has_zero_weight(settings), F.lit(ZERO_WEIGHT)).otherwise(open_label))
    left_out = (~is_test & is_left_out(settings)).alias("is_left_out")
    counts = rows.groupBy("ds", part, "domain", F.coalesce(reason, F.lit("")).alias("reason"), left_out).count()
    columns = ("ds", "part", "domain", "count", "reason", "is_left_out")
    return sorted(RowCount(*row) for row in counts.select(*columns).collect())


def write_outcome_ledger(settings: Settings, store: WarehouseTables, step: str, ds: str, train: DataFrame) -> None:
    """Write the ledger entries of further outcomes: for how many training rows each one is known.

    Args:
        settings: The data set.
        store: The tables.
        step: The name of the split table. The step in the ledger is for example `split.train.long_view`.
        ds: The night, which is the day of all entries.
        train: The training rows.

    Raises:
        DataError: An outcome is not known in any training row, so its head would not be trained.
    """
    outcomes = settings.label.outcomes
    if not outcomes:
        return
    known = [F.count(name_outcome_label(name)).alias(f"known_{k}") for k, name in enumerate(outcomes)]
    found = train.groupBy("domain").agg(F.count("*").alias("rows"), *known).orderBy("domain").collect()
    for k, name in enumerate(outcomes):
        entries = [LedgerEntry(ds, row.domain, row[2 + k], row[2 + k], "") for row in found]
        unknown = ((row.domain, row.rows - row[2 + k]) for row in found)
        entries += [LedgerEntry(ds, domain, n, 0, UNKNOWN_OUTCOME) for domain, n in unknown if n]
        store.write_ledger(f"{step}.{TRAIN}.{name}", entries, f"ds = {quote_spark_literal(ds)}")
        if not any(entry.rows_out for entry in entries):
            raise DataError(
                f"{store.warehouse.table('labels')}: the outcome `{name}` is not known in any of the "
                f"{sum(row.rows for row in found):,} training rows of night {ds}, because its windows are still open "
                f"or its column has no values; set a longer window.days, or remove label.also.{name}"
            )


def check_training_rows(store: WarehouseTables, ds: str, counts: Iterable[RowCount]) -> None:
    """Raise `DataError` if all training rows are left out."""
    train = [c for c in counts if c.part == "train"]
    if not all(c.is_left_out for c in train):
        return
    table, rows = store.warehouse.table("labels"), sum(c.rows for c in train)
    zeros = sum(c.rows for c in train if c.reason == ZERO_WEIGHT)
    if zeros and zeros == rows:
        column = store.settings.logs.impressions.weight
        raise DataError(
            f"{table}: all {rows:,} training rows of night {ds} have weight 0; check the column `{column}` "
            "(logs.impressions.weight)"
        )
    besides = f" (besides {zeros:,} rows with weight 0)" if zeros else ""
    raise DataError(
        f"{table}: the attribution windows of all {rows - zeros:,} training rows of night {ds}{besides} are still "
        "open; set a window.days that is longer than label.window_hours, or label.open: keep"
    )


def write_split_ledger(
    settings: Settings, store: WarehouseTables, step: str, ds: str, counts: Iterable[RowCount], domains: list[str]
) -> None:
    """Write the ledger entries of a split, by part and domain.

    Args:
        settings: The data set.
        store: The tables.
        step: The name of the split table. The step in the ledger is this name and the part, for example `split.train`.
        ds: The night, which is the day of all entries.
        counts: The numbers of rows.
        domains: The domains of the layout. Rows of other domains count as left out if `domains.unknown` is `drop`.
    """
    drop = settings.domains.unknown == "drop"
    entries: dict[tuple[str, str, str], list[int]] = {}
    for c in counts:
        is_unknown = drop and c.domain not in domains
        name = c.domain if is_unknown or c.domain in domains else OTHER_NAME
        reason = UNKNOWN_DOMAIN if is_unknown else c.reason
        entry = entries.setdefault((c.part, name, reason), [0, 0])
        entry[0] += c.rows
        entry[1] += 0 if is_unknown or c.is_left_out else c.rows
    for part in sorted({part for part, _, _ in entries}):
        rows = [
            LedgerEntry(ds, domain, rows_in, rows_out, reason)
            for (p, domain, reason), (rows_in, rows_out) in sorted(entries.items())
            if p == part
        ]
        store.write_ledger(f"{step}.{part}", rows, f"ds = {quote_spark_literal(ds)}")
