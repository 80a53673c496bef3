"""Fit the vocabularies of the embedding tables on the training days."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from star_ctr.conf.contracts.column_names import name_side_column
from star_ctr.conf.contracts.dates import list_days_before
from star_ctr.conf.contracts.encoded_row import FIRST_KNOWN
from star_ctr.conf.settings.features import Categorical, Sequence
from star_ctr.conf.settings.root import Settings
from star_ctr.features.encoding.crosses import combine_values

_UP_TO_ROW = (Window.unboundedPreceding, Window.currentRow)
VOCABULARY_SCHEMA = "embedding string, value string, rows long, last_seen string"
"""The schema of the counts of one partition."""


def list_embedding_columns(settings: Settings) -> dict[str, list[tuple[list[str], str | None]]]:
    """List the columns whose values each embedding table contains.

    Args:
        settings: The settings of the data set.

    Returns:
        By embedding table, the columns of `features`, each with the separator of its list values; the separator is None
        for a column that is not split. Several columns in one entry are a cross: their combinations are the values.
    """
    columns: dict[str, list[tuple[list[str], str | None]]] = {}
    for feature in settings.features:
        if isinstance(feature, Categorical):
            entry = ([column.flat for column in feature.columns], feature.splitter)
            columns.setdefault(feature.embedding or feature.name, []).append(entry)
        elif isinstance(feature, Sequence):
            for column, embedding in feature.columns.items():
                columns.setdefault(embedding, []).append(([name_side_column(feature.name, column)], None))
    return columns


def list_hashed_tables(settings: Settings) -> dict[str, int]:
    """Return the number of rows of each embedding table that features use and whose ids are hashes, by name."""
    rows = {name: table.rows for name, table in settings.model.embeddings.items() if table.rows is not None}
    return {name: rows[name] for name in list_embedding_columns(settings) if name in rows}


def fit_vocabularies(settings: Settings, train: DataFrame, ds: str, previous: DataFrame | None = None) -> DataFrame:
    """Fit the vocabulary of each embedding table that has one.

    Ids start at `FIRST_KNOWN`, with the most frequent value first; equally frequent values are sorted. Values with
    fewer than `min_count` occurrences are excluded, and are encoded as unknown.

    Values of the previous vocabularies keep their ids, even if they do not occur in the training rows. With
    `expire_days`, a value is dropped if it was last seen more than that many days before the night. New values get the
    free ids in ascending order, then ids after the highest one. No encoded row that this or a later night reads has a
    free id: all values of such a row were last seen on its day or later, and `expire_days` is at least the number of
    days in the training window.

    Args:
        settings: The settings of the data set.
        train: The rows of `features` on the training days, with `ds`.
        ds: The night.
        previous: The vocabularies to extend, with the columns of the result; None to fit new ones.

    Returns:
        One row per known value: `embedding`, `value`, `id`, `rows` (its number of occurrences in `train`) and
        `last_seen` (the last day on which it occurred in training rows, of this night or of earlier ones).
    """
    columns = _list_vocabulary_columns(settings)
    total = _count_values(train, columns)
    least, cutoff = F.lit(1), F.lit(None).cast("string")
    for name, embedding in settings.model.embeddings.items():
        least = F.when(F.col("embedding") == name, F.lit(embedding.min_count)).otherwise(least)
        if embedding.expire_days is not None:
            first = list_days_before(ds, embedding.expire_days)[0]
            cutoff = F.when(F.col("embedding") == name, F.lit(first)).otherwise(cutoff)
    if previous is None:
        total = total.withColumn("known", F.lit(None).cast("int"))
    else:
        if "last_seen" not in previous.columns:  # vocabularies of an earlier version
            previous = previous.withColumn("last_seen", F.col("ds"))
        known = previous.where(F.col("embedding").isin(list(columns))).select(
            "embedding", "value", F.col("id").alias("known"), F.col("last_seen").alias("seen_before")
        )
        total = total.join(known, ["embedding", "value"], "full").fillna(0, ["rows"])
        total = total.withColumn("last_seen", F.greatest("last_seen", "seen_before"))
    is_kept = F.col("known").isNotNull() & (cutoff.isNull() | (F.col("last_seen") >= cutoff))
    is_new = F.col("known").isNull() & (F.col("rows") >= least)
    return _assign_ids(total.where(is_kept | is_new)).select("embedding", "value", "id", "rows", "last_seen")


def count_expired(settings: Settings, previous: DataFrame, vocabularies: DataFrame) -> dict[str, int]:
    """Count the values that vocabularies no longer contain.

    Args:
        settings: The settings of the data set.
        previous: The vocabularies that were extended.
        vocabularies: The result of `fit_vocabularies`.

    Returns:
        The number of values by embedding table; only tables that have lost values.
    """
    tables = list(_list_vocabulary_columns(settings))
    lost = previous.where(F.col("embedding").isin(tables)).join(vocabularies, ["embedding", "value"], "left_anti")
    return {row.embedding: row["count"] for row in lost.groupBy("embedding").count().orderBy("embedding").collect()}


def _list_vocabulary_columns(settings: Settings) -> dict[str, list[tuple[list[str], str | None]]]:
    """Return the entries of `list_embedding_columns` whose tables have a vocabulary."""
    hashed = list_hashed_tables(settings)
    return {name: entries for name, entries in list_embedding_columns(settings).items() if name not in hashed}


def _count_values(train: DataFrame, columns: Mapping[str, list[tuple[list[str], str | None]]]) -> DataFrame:
    """Return the number of occurrences of each value, and the last day on which it occurs."""
    needed = sorted({column for entries in columns.values() for parts, _ in entries for column in parts} - {"ds"})

    def count(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        totals: Counter[tuple[str, str]] = Counter()
        last: dict[tuple[str, str], str] = {}
        for day, batch in _split_by_day(batches):
            for embedding, entries in columns.items():
                for parts, separator in entries:
                    combined = combine_values([batch.column(column) for column in parts])
                    counts = pc.value_counts(explode_values(combined, separator))
                    values, numbers = counts.field("values").to_pylist(), counts.field("counts").to_pylist()
                    for value, number in zip(values, numbers, strict=True):
                        if value is not None:
                            totals[embedding, value] += number
                            last[embedding, value] = max(day, last.get((embedding, value), day))
        if totals:
            names, values = zip(*totals, strict=True)
            yield pa.RecordBatch.from_arrays(
                [
                    pa.array(names),
                    pa.array(values),
                    pa.array(list(totals.values())),
                    pa.array([last[k] for k in totals]),
                ],
                names=["embedding", "value", "rows", "last_seen"],
            )

    partial = train.select("ds", *needed).mapInArrow(count, VOCABULARY_SCHEMA)
    totals = (F.sum("rows").alias("rows"), F.max("last_seen").alias("last_seen"))
    return partial.groupBy("embedding", "value").agg(*totals)


def _split_by_day(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Yield the rows of each batch by day."""
    for batch in batches:
        days = pc.unique(batch.column("ds")).to_pylist()
        for day in days:
            yield day, batch if len(days) == 1 else batch.filter(pc.equal(batch.column("ds"), day))


def _assign_ids(values: DataFrame) -> DataFrame:
    """Add `id`: that of `known`, or the next free one, in the order of `rows` and `value`."""
    # The n-th free id is FIRST_KNOWN + n - 1 plus the number of kept ids below it, which are the kept ids with fewer
    # than n free ids below them. So a running count suffices, and no join.
    order = Window.partitionBy("embedding").orderBy(F.col("known").asc_nulls_last(), F.col("rows").desc(), "value")
    is_new = F.col("known").isNull()
    # For a kept id, the number of free ids below it; for a new value, its number n among the new ones.
    free = F.when(is_new, F.row_number().over(order) - F.count("known").over(order.rowsBetween(*_UP_TO_ROW)))
    free = free.otherwise(F.col("known") - FIRST_KNOWN + 1 - F.row_number().over(order))
    by_free = Window.partitionBy("embedding").orderBy("_free", ~is_new).rowsBetween(*_UP_TO_ROW)
    new_id = F.col("_free") + FIRST_KNOWN - 1 + F.count("known").over(by_free)
    return values.withColumn("_free", free).withColumn("id", F.coalesce("known", new_id).cast("int"))


def explode_values(column: pa.Array, separator: str | None) -> pa.Array:
    """Return all values of a column as a flat array.

    Args:
        column: The column: text, or a list of values.
        separator: The separator of values in text; None to keep text unsplit.

    Returns:
        The values of lists, the parts of split text, or the column unchanged.
    """
    if separator is not None:
        return pc.list_flatten(pc.split_pattern(column, separator))
    return pc.list_flatten(column) if pa.types.is_list(column.type) else column
