"""Parse labels and further outcomes from columns of the impression log."""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DataType

from star_ctr.conf.contracts.column_names import name_outcome_label
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.label import Label, LabelledColumn
from star_ctr.conf.settings.root import Settings
from star_ctr.features.cleaning.log_columns import get_column, name_table_column
from star_ctr.features.cleaning.text import NESTED

UNDECLARED_LABEL = "label is neither `positive` nor `negative`"
"""Part of the reason of a row with an undeclared label value."""
UNDECLARED_OUTCOME = "outcome is neither `positive` nor `negative`"
"""Part of the reason of a row with an undeclared value of a further outcome."""


def parse_label(label: LabelledColumn, text: Column) -> Column:
    """Parse the text of a label or of a further outcome.

    Args:
        label: The values that count as positive and negative.
        text: The canonical text of the column.

    Returns:
        1.0 or 0.0; null for a value that is neither.
    """
    # Compare numbers by value: 1, 1.0 and +1 are the same label.
    text = F.regexp_replace(F.lower(F.trim(F.coalesce(text, F.lit("")))), r"^\+?(-?\d+)(\.0+)?$", "$1")
    return F.when(text.isin(label.positive), F.lit(1.0)).when(text.isin(label.negative), F.lit(0.0))


def check_outcomes(label: Label, texts: Mapping[str, Column], types: Mapping[str, DataType]) -> list[Column]:
    """Check the columns of further outcomes.

    Args:
        label: The label with its further outcomes.
        texts: The canonical text of each log column; contains only columns that the file has.
        types: The type of each of these columns.

    Returns:
        A column per outcome with the reason why a row is invalid (its value is neither missing nor declared); null for
        valid rows.

    Raises:
        DataError: A column does not contain scalar values.
    """
    checks = []
    for name, column in label.outcome_columns.items():
        if column not in texts:
            continue
        if isinstance(types[column], (*NESTED, ArrayType)):
            raise DataError(
                f"label.also.{name}: `{column}` is a {types[column].simpleString()}; choose a column of scalar values"
            )
        outcome = label.also[name]
        assert isinstance(outcome, LabelledColumn)
        is_missing = F.coalesce(F.trim(texts[column]) == "", F.lit(True))
        is_invalid = ~is_missing & parse_label(outcome, texts[column]).isNull()
        checks.append(F.when(is_invalid, F.lit(f"{column}: {UNDECLARED_OUTCOME}")))
    return checks


def add_outcomes(settings: Settings, impressions: DataFrame) -> DataFrame:
    """Add further outcomes to rows of the table `impressions`, from the columns of the log.

    Args:
        settings: The data set.
        impressions: Rows of the table.

    Returns:
        The rows with a column `name_outcome_label(name)` for each outcome: 1.0, 0.0, or null if it is not known.
    """
    added = {}
    for name, column in settings.label.outcome_columns.items():
        outcome = settings.label.also[name]
        assert isinstance(outcome, LabelledColumn)
        stored = get_column(name_table_column(settings, "impressions", column)).cast("string")
        added[name_outcome_label(name)] = parse_label(outcome, stored)
    return impressions.withColumns(added) if added else impressions
