"""The vocabularies of the embedding tables, fitted on the training days."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from star_ctr.conf.contracts.column_names import name_side_column
from star_ctr.conf.contracts.encoded_row import FIRST_KNOWN
from star_ctr.conf.settings.features import Categorical, Sequence, flatten_column_name
from star_ctr.conf.settings.root import Settings

VOCABULARY_SCHEMA = "embedding string, value string, rows long"


def list_embedding_columns(settings: Settings) -> dict[str, list[tuple[str, str | None]]]:
    """For each embedding table, the features columns it holds the values of, each with its separator if it has one."""
    columns: dict[str, list[tuple[str, str | None]]] = {}
    for feature in settings.features:
        if isinstance(feature, Categorical):
            entry = (flatten_column_name(feature.column), feature.splitter)
            columns.setdefault(feature.embedding or feature.name, []).append(entry)
        elif isinstance(feature, Sequence):
            for column, embedding in feature.columns.items():
                columns.setdefault(embedding, []).append((name_side_column(feature.name, column), None))
    return columns


def fit_vocabularies(settings: Settings, train: DataFrame, before: DataFrame | None = None) -> DataFrame:
    """The values that training rows hold, by embedding table: embedding, value, id, rows.

    Ids count from FIRST_KNOWN, the most frequent value first; values seen fewer than `min_count` times are
    left out (they are encoded as unknown). Values that stand in vocabularies of `before` keep their ids, whether or
    not these rows hold them, and the new ones follow.
    """
    columns = list_embedding_columns(settings)
    needed = sorted({column for entries in columns.values() for column, _ in entries})

    def count(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        totals: Counter[tuple[str, str]] = Counter()
        for batch in batches:
            for embedding, entries in columns.items():
                for column, separator in entries:
                    counts = pc.value_counts(explode_values(batch.column(column), separator))
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
    if before is None:
        total = total.withColumn("known", F.lit(None).cast("int"))
    else:
        known = before.where(F.col("embedding").isin(list(columns))).select(
            "embedding", "value", F.col("id").alias("known")
        )
        total = total.join(known, ["embedding", "value"], "full").fillna(0, ["rows"])
    # Ids that are known have no gaps: counted first, in their order, they come out as they were.
    order = Window.partitionBy("embedding").orderBy(F.col("known").asc_nulls_last(), F.col("rows").desc(), "value")
    return total.where(F.col("known").isNotNull() | (F.col("rows") >= least)).select(
        "embedding", "value", (F.row_number().over(order) + FIRST_KNOWN - 1).cast("int").alias("id"), "rows"
    )


def explode_values(column: pa.Array, separator: str | None) -> pa.Array:
    """All values of a column: list columns opened, text split at its separator, else as it is."""
    if separator is not None:
        return pc.list_flatten(pc.split_pattern(column, separator))
    return pc.list_flatten(column) if pa.types.is_list(column.type) else column
