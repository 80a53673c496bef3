"""Convert values of any type to canonical text, and parse text as numbers.

The type of a column may differ between files of one log. For example, an id is an integer on one day and a float on the
next, because pandas stores a column with missing values as floats. Each file is therefore converted to canonical text
before files are combined: 12, 12.0 and 1.2E1 all become `12`. An id that cannot be converted without loss is rejected,
never rounded.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    BinaryType,
    DataType,
    DecimalType,
    DoubleType,
    FloatType,
    MapType,
    StringType,
    StructType,
    VariantType,
)

from star_ctr.conf.settings.sources import Log

REPLACEMENT = "\ufffd"
"""The character that a decoder inserts for invalid bytes."""
NESTED = (StructType, MapType, VariantType)
_EXACT_FLOATS = {"float": 2.0**24, "double": 2.0**53}
"""Floats below these limits represent integers exactly; at and above them, different ids may have become equal."""
_WHOLE = r"^[+-]?\d+\.0+$"
_WHOLE_WITH_COMMA = r"^[+-]?\d+,0+$"
_JAVA_FLOAT = r"^[+-]?\d\.\d+E\d+$"
"""A large float as written by Java, with all its digits. Excludes `7E10`, which may be a hexadecimal id."""
_ROUNDED_FLOAT = r"^[+-]?\d(\.\d+)?[eE]\+\d+$"
"""A float in the exponent notation of spreadsheets, C or Python (1.23457E+14): few digits, or a very large number."""


def to_text(log: Log, column: Column, kind: DataType, verbatim: bool = False) -> Column:
    """Convert a column to canonical text.

    Whole numbers lose their fraction (`.0`). Lists become lists of text. Structs and maps become JSON.

    Args:
        log: The log of the column; its `null_values` become null.
        column: The column.
        kind: The type of the column.
        verbatim: Whether to keep text unchanged, for a column declared as `string`.

    Returns:
        A text column, or an array of text for a column of lists.
    """
    if isinstance(kind, NESTED):
        return F.to_json(column)
    if isinstance(kind, ArrayType):
        if isinstance(kind.elementType, (*NESTED, ArrayType)):
            return F.transform(column, F.to_json)
        return F.transform(column, lambda x: to_text(log, x, kind.elementType, verbatim))
    text = _convert_scalar(column, kind)
    # Typed formats distinguish text from numbers. In CSV and JSON, text may be a number in any notation.
    if isinstance(kind, StringType) and not verbatim and log.format in ("csv", "json"):
        text = _normalize_whole_number(text, log.decimal)
    return drop_null_values(log, text)


def check_key(log: Log, text: Column, column: Column, kind: DataType, name: str, verbatim: bool = False) -> Column:
    """Check that the values of a column can be ids: present, without a fraction, and not rounded by a float.

    Args:
        log: The log of the column.
        text: The canonical text of the column, from `to_text`.
        column: The column.
        kind: The type of the column; lists and structs must be rejected by the caller.
        name: The name of the column in the reason.
        verbatim: Whether text is kept unchanged, as in `to_text`.

    Returns:
        A text column with the reason why a value cannot be an id; null if it can be one.
    """
    checks = [F.when(F.coalesce(F.trim(text) == "", F.lit(True)), F.lit(f"{name}: missing"))]
    if isinstance(kind, FloatType | DoubleType):
        checks.append(F.when(is_rounded(column, kind), F.lit(f"{name}: {LOST_DIGITS}")))
    if isinstance(kind, FloatType | DoubleType | DecimalType):
        checks.append(F.when(column != F.floor(column), F.lit(f"{name}: an id cannot have a fraction")))
    if isinstance(kind, BinaryType):
        checks.append(F.when(~F.is_valid_utf8(column.cast("string")), F.lit(f"{name}: bytes are not valid UTF-8")))
    if isinstance(kind, StringType) and not verbatim and log.format in ("csv", "json"):
        # Text may be a float that another tool has written: 1.23E18 has lost its last digits.
        number = F.when(column.rlike(_JAVA_FLOAT) | column.rlike(_WHOLE), column.try_cast("double"))
        rounded = is_rounded(number, DoubleType()) | column.rlike(_ROUNDED_FLOAT)
        checks.append(F.when(rounded, F.lit(f"{name}: {LOST_DIGITS}")))
    return F.coalesce(*checks)


_GROUPED = r"^[+-]?\d{1,3}(\.\d{3})+(,\d*)?$"
"""A number with dots between groups of three digits and an optional decimal comma."""
LOST_DIGITS = "a float this large has lost digits; write the id as an integer or as text"
"""Part of the reason of a row with an id that may have been rounded."""


def is_rounded(column: Column, kind: DataType) -> Column:
    """Return whether the absolute value of a float is so large that different integers may have become equal."""
    limit = _EXACT_FLOATS["float" if isinstance(kind, FloatType) else "double"]
    rounded: Column = F.abs(column) >= limit
    return rounded


def is_undecodable(text: Column, log: Log) -> Column:
    """Return whether a text could not be decoded with the log's encoding."""
    # Text from CSV and JSON is already decoded, with REPLACEMENT for invalid bytes. Typed formats keep the bytes.
    return text.contains(REPLACEMENT) if log.format in ("csv", "json") else ~F.is_valid_utf8(text)


def to_number(text: Column, decimal: str = ".") -> Column:
    """Parse text as a number; `true` becomes 1 and `false` becomes 0.

    Args:
        text: A text column.
        decimal: The decimal separator. If it is a comma, dots between groups of three digits are removed.

    Returns:
        A column of doubles; null if the text is not a number.
    """
    plain = F.trim(text)
    if decimal == ",":
        grouped = plain.rlike(_GROUPED)
        plain = F.when(grouped, F.regexp_replace(plain, r"\.", "")).when(~plain.contains("."), plain)
        plain = F.regexp_replace(plain, ",", ".")
    lower = F.lower(plain)
    # Java parses 1d and 1f as numbers, but in a log they are not meant as numbers.
    number = F.when(~lower.rlike("[0-9.][df]$"), plain.try_cast("double"))
    return F.coalesce(number, F.when(lower == "true", F.lit(1.0)).when(lower == "false", F.lit(0.0)))


def to_numbers(texts: Sequence[Column], decimal: str) -> Column:
    """Parse several text columns as an array of numbers, with one expression for all of them.

    Args:
        texts: The text columns.
        decimal: The decimal separator, as in `to_number`.

    Returns:
        An array column with one double per text column; null if the text is not a number.
    """

    def parse(text: Column) -> Column:
        return to_number(text, decimal)

    return F.transform(F.array(*texts), parse)


def to_plain_number(text: Column) -> Column:
    """Rewrite a number with a decimal comma or with grouped thousands (`1.234,5` -> `1234.5`); keep any other text."""
    number = to_number(text, ",").cast("string")
    return F.coalesce(F.when(text.contains(",") | text.rlike(_GROUPED), number), text)


def _convert_scalar(column: Column, kind: DataType) -> Column:
    """Convert a column of single values to text, whole numbers without a fraction; NaN becomes null."""
    if isinstance(kind, FloatType | DoubleType):
        digits = F.when(
            (column == F.floor(column)) & (F.abs(column) < 1e18), column.cast("decimal(20, 0)").cast("string")
        )
        return F.when(~F.isnan(column), F.coalesce(digits, column.cast("string")))
    if isinstance(kind, DecimalType):
        text = column.cast("string")
        return F.when(text.contains("."), F.regexp_replace(text, r"\.?0+$", "")).otherwise(text)
    if isinstance(kind, BinaryType):  # text that was written without a logical type, or bytes
        text = column.cast("string")
        return F.when(F.is_valid_utf8(text), text).otherwise(F.base64(column))
    return column.cast("string")


def _normalize_whole_number(text: Column, decimal: str) -> Column:
    """Remove the fraction or exponent of a whole number; keep any other text unchanged."""
    # Do the cheap test first: most texts do not need the regular expression.
    fraction = text.contains(".0") & text.rlike(_WHOLE)
    if decimal == ",":  # 1.000 means one thousand
        fraction = (fraction & ~text.rlike(_GROUPED)) | (text.contains(",0") & text.rlike(_WHOLE_WITH_COMMA))
    exponent = text.contains("E") & text.rlike(_JAVA_FLOAT)
    number = text.try_cast("decimal(38, 18)")
    digits = F.when(number == F.floor(number), number.cast("decimal(38, 0)").cast("string"))
    return (
        F.when(fraction, F.regexp_replace(text, r"[.,]0+$", ""))
        .when(exponent, F.coalesce(digits, text))
        .otherwise(text)
    )


def drop_null_values(log: Log, text: Column) -> Column:
    """Replace the log's `null_values` by null, ignoring white space around them."""
    tokens = sorted({token.strip() for token in log.null_values})
    # `trim` removes only spaces, so convert tabs, line breaks and no-break spaces to spaces.
    bare = F.trim(F.translate(text, "\t\r\n\u00a0", "    "))
    return F.when(~bare.isin(tokens), text) if tokens else text
