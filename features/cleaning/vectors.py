"""Parse vectors: arrays of numbers, or text that contains numbers and a separator."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, StringType

from star_ctr.conf.settings.features import Vector
from star_ctr.features.cleaning.log_columns import get_column
from star_ctr.features.cleaning.text import to_plain_number

_EXAMPLE = 40
"""Maximum number of characters of an unparsable value that are kept as an example."""
_OPENING, _CLOSING = r"^\s*[\[({]?\s*", r"\s*[\])}]?\s*$"
"""White space and brackets around the numbers."""
_JAVA_SUFFIX = r"[0-9.][dDfF]\s*(,|$)"
"""A number such as 1f, which Java parses, in a list of elements joined by commas."""


def name_unparsable(column: str) -> str:
    """Return the name of the column with the start of each value of `column` that is not a vector."""
    return f"_unparsable_{column}"


def parse_vectors(rows: DataFrame, vectors: Mapping[str, Vector]) -> DataFrame:
    """Parse columns of vectors.

    Args:
        rows: Rows with the columns of a log's table.
        vectors: The feature that reads each column, by the name of the column.

    Returns:
        The rows. Each of the columns has arrays of `length` finite 32-bit floats, and null for a value that is missing
        or not such a vector. For each, there is another column, `name_unparsable`: the start of a value that is not a
        vector, null for all others. A value without elements, such as an empty list, is missing.
    """
    if not vectors:
        return rows
    raw = {name: f"_raw_{name}" for name in vectors}
    elements = {raw[name]: _split(rows, name, feature) for name, feature in vectors.items()}
    # Convert in steps, so that Spark computes each of them once.
    rows = rows.withColumns(elements)
    found = {name: F.col(f"`{raw[name]}`").try_cast("array<float>") for name in vectors}
    rows = rows.withColumns(found)
    checked = {name: F.when(_is_valid(raw[name], name, feature), get_column(name)) for name, feature in vectors.items()}
    rows = rows.withColumns(checked)
    unparsable = {
        name_unparsable(name): F.when(
            get_column(name).isNull() & (F.size(get_column(raw[name])) > 0),
            F.substring(F.array_join(get_column(raw[name]), feature.separator, "null"), 1, _EXAMPLE),
        )
        for name, feature in vectors.items()
    }
    return rows.withColumns(unparsable).drop(*raw.values())


def count_elements(rows: DataFrame, name: str, feature: Vector) -> Column:
    """Return the number of elements of a column's values, whether or not they are numbers."""
    return F.size(_split(rows, name, feature))


def _split(rows: DataFrame, name: str, feature: Vector) -> Column:
    """Return the elements of a column's values as text; null or an empty array for a missing value."""
    kind, value = rows.schema[name].dataType, get_column(name)
    if not isinstance(kind, ArrayType):
        return _split_text(value.cast("string"), feature)
    if not isinstance(kind.elementType, StringType):
        return value.cast("array<string>")
    # In a log that has arrays in some files and text in others, a text is an array of length one.
    is_text = (F.size(value) == 1) & F.lit(feature.length > 1)
    return F.when(is_text, _split_text(F.get(value, F.lit(0)), feature)).otherwise(value)


def _split_text(text: Column, feature: Vector) -> Column:
    bare = strip_brackets(text)
    separator = r"\s+" if feature.separator.isspace() else rf"\Q{feature.separator}\E"
    return F.when(bare != "", F.split(bare, separator))


def _is_valid(raw: str, name: str, feature: Vector) -> Column:
    """Return whether a column has `length` finite numbers; null or false for other values."""
    vector = get_column(name)
    # Spark compiles these functions, but interprets `exists`. The result of `array_contains` is null, and not false, if
    # an element is null. It considers NaN equal to NaN.
    special = [F.array_contains(vector, F.lit(value).cast("float")) for value in (math.nan, math.inf, -math.inf)]
    has_suffix = F.array_join(get_column(raw), ",").rlike(_JAVA_SUFFIX)
    return (F.size(vector) == feature.length) & ~special[0] & ~special[1] & ~special[2] & ~has_suffix


def strip_brackets(text: Column) -> Column:
    """Remove white space and brackets around the numbers of a vector."""
    return F.regexp_replace(F.regexp_replace(text, _OPENING, ""), _CLOSING, "")


def write_decimal_points(text: Column, separator: str) -> Column:
    """Rewrite the numbers of a vector that have decimal commas (`1,5;-2,25` -> `1.5;-2.25`); keep any other text."""
    parts = F.split(strip_brackets(text), rf"\Q{separator}\E")
    return F.when(text.isNotNull(), F.array_join(F.transform(parts, to_plain_number), separator))
