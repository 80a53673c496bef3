"""The columns of a row that features read, as the table `features` stores them."""

from __future__ import annotations

from collections.abc import Iterable

from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.contracts.column_names import IDENTITY_COLUMNS
from star_ctr.conf.contracts.column_ref import ColumnRef
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.features import AnyFeature, Categorical, Numeric, Sequence, Vector, list_read_columns
from star_ctr.conf.settings.root import Settings
from star_ctr.features.cleaning.text import to_number
from star_ctr.features.cleaning.vectors import name_unparsable

_EXAMPLE = 40
"""Maximum number of characters of an unparsable value that are kept as an example."""


def select_row_columns(settings: Settings, rows: DataFrame) -> list[SparkColumn]:
    """Return the columns that features other than sequences read from their row, except IDENTITY_COLUMNS.

    Numeric columns are doubles, and vectors are arrays of floats (`parse_vectors`). All others are text; lists are
    joined with the separator of their feature.

    Raises:
        DataError: A column holds lists, but one of its features needs single values or another separator.
    """
    numeric = {f.column for f in settings.select_features(Numeric)}
    readers: dict[ColumnRef, list[AnyFeature]] = {}
    for feature in (f for f in settings.features if not isinstance(f, Sequence)):
        for read in list_read_columns(feature):
            readers.setdefault(read, []).append(feature)
    vectors = {f.column for f in settings.select_features(Vector)}
    types = dict(rows.dtypes)
    columns = []
    for column, features in sorted(readers.items()):
        if column in IDENTITY_COLUMNS:
            continue
        value, kind = F.col(column.flat), types[column.flat]
        if column in vectors:
            columns.append(value)
            continue
        if kind.startswith("array"):
            value = F.array_join(value, _get_splitter(column, features))
        elif column in numeric:
            value = _parse_number(column, kind)
        columns.append(value.cast("string" if column not in numeric else "double").alias(column.flat))
    return columns


def _get_splitter(column: ColumnRef, features: Iterable[AnyFeature]) -> str:
    """Return the separator of the features that read a column of lists; raises `DataError` if they do not share one."""
    found: dict[str, str] = {}
    for feature in features:
        splitter = feature.splitter if isinstance(feature, Categorical) else None
        if splitter is None:
            is_cross = isinstance(feature, Categorical) and len(feature.columns) > 1
            remedy = (
                "choose a column of single values"
                if is_cross
                else "make it a categorical feature with `multiple: true`"
            )
            raise DataError(f"features.{feature.name}: `{column}` holds lists; {remedy}")
        found[splitter] = feature.name
    if len(found) > 1:
        first, second = list(found.values())[:2]
        raise DataError(
            f"features.{second}: `{column}` holds lists, and features.{first} splits them at another separator; set "
            "`multiple: true` in both, without `separator`"
        )
    return next(iter(found))


def _parse_number(column: ColumnRef, kind: str) -> SparkColumn:
    """Parse a column as a number. Ingest writes all numbers with a decimal point."""
    value = F.col(column.flat)
    return to_number(value) if kind == "string" else value.try_cast("double")


def find_unparsable(settings: Settings, rows: DataFrame) -> SparkColumn:
    """Return each row's unparsable numbers and vectors, as a JSON object: column -> start of its text.

    The result is null if there are none.
    """
    types = dict(rows.dtypes)
    found = []
    for column in sorted({f.column for f in settings.select_features(Numeric)}):
        text = F.col(column.flat)
        if types[column.flat] == "string":
            bad = text.isNotNull() & _parse_number(column, "string").isNull()
            found.append(F.when(bad, F.struct(F.lit(column), F.substring(text, 1, _EXAMPLE))))
    for column in sorted(f.column for f in settings.select_features(Vector)):
        text = F.col(f"`{name_unparsable(column.flat)}`")
        found.append(F.when(text.isNotNull(), F.struct(F.lit(column), F.substring(text, 1, _EXAMPLE))))
    if not found:
        return F.lit(None).cast("string")
    entries = F.filter(F.array(*found), lambda entry: entry.isNotNull())
    # Use JSON, because Spark passes text to Python and back much faster than a map.
    return F.when(F.size(entries) > 0, F.to_json(F.map_from_entries(entries)))
