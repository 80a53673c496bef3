"""Convert log columns to text and to numbers, with one expression for many columns."""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, StringType

from star_ctr.conf.settings.features import Numeric, Vector, list_read_columns
from star_ctr.conf.settings.root import Settings
from star_ctr.conf.settings.sources import Log
from star_ctr.features.cleaning.log_columns import get_column
from star_ctr.features.cleaning.text import to_number, to_numbers, to_plain_number, to_text
from star_ctr.features.cleaning.vectors import write_decimal_points

_TEXT = "_star_ctr_text"
_TEXTS = "_star_ctr_texts"
_NUMBERS = "_star_ctr_numbers"


def add_texts(log: Log, raw: DataFrame, types: Mapping[str, DataType]) -> tuple[DataFrame, dict[str, Column]]:
    """Add the canonical text of each column.

    Args:
        log: The log.
        raw: The raw rows.
        types: The type of each log column.

    Returns:
        The rows with helper columns, and for each log column the expression for its text (see `to_text`).
    """
    # Convert all text columns with one expression over an array. Spark compiles code for each expression, and for a log
    # with many columns, compiling took longer than running the code.
    plain = [c for c, kind in types.items() if isinstance(kind, StringType) and log.types.get(c) != "string"]
    rows, texts = raw, {}
    if plain:
        array = F.transform(F.array(*map(get_column, plain)), lambda text: to_text(log, text, StringType()))
        rows = rows.withColumn(_TEXTS, array)
        texts = {c: F.get(_TEXTS, F.lit(k)) for k, c in enumerate(plain)}
    others = {c: f"{_TEXT}{k}" for k, c in enumerate(types) if c not in texts}
    added = {name: to_text(log, get_column(c), types[c], log.types.get(c) == "string") for c, name in others.items()}
    rows = rows.withColumns(added) if added else rows
    return rows, {c: texts[c] if c in texts else F.col(others[c]) for c in types}


def get_declared_type(log: Log, column: str) -> str | None:
    """Return the type that the settings declare for a column, None if none; the default for outcomes is `double`."""
    return log.types.get(column) or ("double" if column in getattr(log, "outcomes", ()) else None)


def add_numbers(
    log: Log, rows: DataFrame, texts: Mapping[str, Column], types: Mapping[str, DataType]
) -> tuple[DataFrame, dict[str, Column]]:
    """Add the number of each column that is declared as `double`.

    Args:
        log: The log.
        rows: The rows, from `add_texts`.
        texts: The text of each log column, from `add_texts`.
        types: The type of each log column in the raw rows.

    Returns:
        The rows with helper columns, and for each `double` column the expression for its number.
    """
    doubles = [c for c in texts if get_declared_type(log, c) == "double"]
    if not doubles:
        return rows, {}
    # `decimal` applies only to text columns: floats of a typed file become text with a decimal point.
    is_text_column = {c: isinstance(types[c], StringType) for c in doubles}
    numbers: dict[str, Column] = {}
    for index, (is_text, decimal) in enumerate(((True, log.decimal), (False, "."))):
        group = [c for c in doubles if is_text_column[c] == is_text]
        if group:
            name = f"{_NUMBERS}{index}"
            rows = rows.withColumn(name, to_numbers([texts[c] for c in group], decimal))
            numbers |= {c: F.get(name, F.lit(k)) for k, c in enumerate(group)}
    return rows, numbers


def read_number(rows: DataFrame, column: str) -> Column:
    """Return a column of a log's table as numbers, null where a value is not one. Ingest writes decimal points."""
    value = get_column(column)
    return to_number(value) if isinstance(rows.schema[column].dataType, StringType) else value.try_cast("double")


def replace_decimal_commas(settings: Settings, name: str, column: str, text: Column) -> Column:
    """Rewrite the decimal commas of a text column of a log, if features read it as numbers or vectors."""
    if column in split_columns_by_use(settings, name)["number"]:
        return to_plain_number(text)
    vector = list_vectors(settings, name).get(column)
    return write_decimal_points(text, vector.separator) if vector else text


def split_columns_by_use(settings: Settings, name: str) -> dict[str, set[str]]:
    """Find the log columns that are read as numbers and as ids.

    Args:
        settings: The settings of the data set.
        name: The log.

    Returns:
        The log columns by use: `number` for numeric features and the weight, `vector` for vectors, and `id` for all
        other features.
    """
    found: dict[str, set[str]] = {"number": set(), "vector": set(), "id": set()}
    if name == "impressions" and settings.logs.impressions.weight:
        found["number"].add(settings.logs.impressions.weight)
    for feature in settings.features:
        for column in list_read_columns(feature):
            if column.table == name:
                use = "number" if isinstance(feature, Numeric) else "vector" if isinstance(feature, Vector) else "id"
                found[use].add(column.column)
    return found


def list_vectors(settings: Settings, name: str) -> dict[str, Vector]:
    """Return the features that read columns of a log as vectors, by column."""
    return {f.column.column: f for f in settings.select_features(Vector) if f.column.table == name}
