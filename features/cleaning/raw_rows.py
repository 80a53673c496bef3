"""Raw rows of a log, as the reader returns them, and the union of DataFrames with different columns."""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DataType, StringType

from star_ctr.conf.settings.sources import Log
from star_ctr.features.cleaning.log_columns import get_column


class RawRows(NamedTuple):
    """Raw rows of one source with one schema.

    Attributes:
        log: The log as it is declared for this source.
        rows: The rows.
        folder_columns: The columns whose values come from the names of folders, such as `hour=13`.
    """

    log: Log
    rows: DataFrame
    folder_columns: frozenset[str] = frozenset()


def to_list(value: Column, kind: DataType) -> Column:
    """Return single values as lists of length one, and a text that is a JSON list as this list."""
    # Spark reads a JSON column that has lists in some rows and texts in others as text.
    if not isinstance(kind, StringType):
        return F.array(value)
    parsed = F.when(value.startswith("["), F.from_json(value, "array<string>"))
    return F.coalesce(parsed, F.array(value))


def union_frames(frames: list[DataFrame]) -> DataFrame:
    """Union DataFrames by column name.

    Args:
        frames: At least one DataFrame.

    Returns:
        All rows, with the columns of all DataFrames. A column is null in the rows of a DataFrame that lacks it. If it
        contains lists in one DataFrame and text in another, each text becomes a list of length one.
    """
    types: dict[str, DataType] = {}
    for frame in frames:
        for field in frame.schema.fields:
            if isinstance(field.dataType, ArrayType) or field.name not in types:
                types[field.name] = field.dataType

    def wrap_texts(frame: DataFrame) -> DataFrame:
        wrapped = {
            f.name: F.when(get_column(f.name).isNotNull(), to_list(get_column(f.name), f.dataType))
            for f in frame.schema.fields
            if isinstance(types[f.name], ArrayType) and isinstance(f.dataType, StringType)
        }
        return frame.withColumns(wrapped) if wrapped else frame

    return reduce(lambda a, b: a.unionByName(b, allowMissingColumns=True), map(wrap_texts, frames))
