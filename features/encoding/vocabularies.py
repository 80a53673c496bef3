"""Fit the vocabularies of the embedding tables on the training days."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from star_ctr.conf.contracts.column_names import name_side_column
from star_ctr.conf.contracts.encoded_row import FIRST_KNOWN
from star_ctr.conf.settings.features import Categorical, Sequence
from star_ctr.conf.settings.root import Settings
from star_ctr.features.encoding.crosses import combine_values

VOCABULARY_SCHEMA = "embedding string, value string, rows long"
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


def fit_vocabularies(settings: Settings, train: DataFrame, previous: DataFrame | None = None) -> DataFrame:
    """Fit the vocabulary of each embedding table that has one.

    Ids start at `FIRST_KNOWN`, with the most frequent value first; equally frequent values are sorted. Values with
    fewer than `min_count` occurrences are excluded, and are encoded as unknown. Values of the previous vocabularies
    keep their ids, even if they do not occur in the training rows; new values follow after them.

    Args:
        settings: The settings of the data set.
        train: The rows of `features` on the training days.
        previous: The vocabularies to extend, with the columns of the result; None to fit new ones.

    Returns:
        One row per known value: `embedding`, `value`, `id` and `rows` (its number of occurrences in `train`).
    """
    hashed = list_hashed_tables(settings)
    columns = {name: entries for name, entries in list_embedding_columns(settings).items() if name not in hashed}
    needed = sorted({column for entries in columns.values() for parts, _ in entries for column in parts})

    def count(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        totals: Counter[tuple[str, str]] = Counter()
        for batch in batches:
            for embedding, entries in columns.items():
                for parts, separator in entries:
                    combined = combine_values([batch.column(column) for column in parts])
                    counts = pc.value_counts(explode_values(combined, separator))
                    values, numbers = counts.field("values").to_pylist(), counts.field("counts").to_pylist()
                    for value, number in zip(values, numbers, strict=True):
                        if value is not None:
                            totals[embedding, value] += number
        if totals:
            names, values = zip(*totals, strict=True)
            yield pa.RecordBatch.from_arrays(
                [pa.array(names), pa.array(values), pa.array(list(totals.values()))],
                names=["embedding", "value", "rows"],
            )

    partial = train.select(*needed).mapInArrow(count, VOCABULARY_SCHEMA)
    total = partial.groupBy("embedding", "value").agg(F.sum("rows").alias("rows"))
    least = F.lit(1)
    for name, embedding in settings.model.embeddings.items():
        least = F.when(F.col("embedding") == name, F.lit(embedding.min_count)).otherwise(least)
    if previous is None:
        total = total.withColumn("known", F.lit(None).cast("int"))
    else:
        known = previous.where(F.col("embedding").isin(list(columns))).select(
            "embedding", "value", F.col("id").alias("known")
        )
        total = total.join(known, ["embedding", "value"], "full").fillna(0, ["rows"])
    # Known ids have no gaps, so numbering the known values first, in the order of their ids, gives the same ids.
    order = Window.partitionBy("embedding").orderBy(F.col("known").asc_nulls_last(), F.col("rows").desc(), "value")
    return total.where(F.col("known").isNotNull() | (F.col("rows") >= least)).select(
        "embedding", "value", (F.row_number().over(order) + FIRST_KNOWN - 1).cast("int").alias("id"), "rows"
    )


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
