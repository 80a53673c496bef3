"""Canonical text of values of any type.

The type of a column may differ between files of one log: an id is an integer on one day and a float on the next,
because pandas met a missing value. Every file is converted to canonical text before files are combined: 12, 12.0 and
1.2E1 all become `12`. A value that cannot be converted without loss is rejected, never rounded.
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

from star_ctr.conf.settings.logs import Log

REPLACEMENT = "\ufffd"
"""The character that a decoder inserts for invalid bytes."""
NESTED = (StructType, MapType, VariantType)
_EXACT_FLOATS = {"float": 2.0**24, "double": 2.0**53}
"""Below these, floats represent integers exactly; from there on, different ids may have become equal."""
_WHOLE = r"^[+-]?\d+\.0+$"
_WHOLE_WITH_COMMA = r"^[+-]?\d+,0+$"
_JAVA_FLOAT = r"^[+-]?\d\.\d+E\d+$"
"""A large float as Java writes it, with all of its digits; `7E10` may also be a hexadecimal id."""
_ROUNDED_FLOAT = r"^[+-]?\d(\.\d+)?[eE]\+\d+$"
"""A float in exponent notation from a spreadsheet, C or Python (1.23457E+14): it has few digits, or is very large."""


def to_text(log: Log, column: Column, kind: DataType, verbatim: bool = False) -> Column:
    """Convert a column to canonical text: whole numbers without a fraction, lists as lists of text, structs as JSON.

    Args:
        log: The log of the column; its `null_values` become null.
        column: The column.
        kind: Its type.
        verbatim: Keep text unchanged (for a column declared as `string`).
    """
    if isinstance(kind, NESTED):
        return F.to_json(column)
    if isinstance(kind, ArrayType):
        if isinstance(kind.elementType, (*NESTED, ArrayType)):
            return F.transform(column, F.to_json)
        return F.transform(column, lambda x: to_text(log, x, kind.elementType, verbatim))
    text = _convert_scalar(column, kind)
    # Typed formats distinguish text from numbers; in CSV and JSON a number may have been written either way.
    if isinstance(kind, StringType) and not verbatim and log.format in ("csv", "json"):
        text = _normalize_whole_number(text, log.decimal)
    return _drop_null_values(log, text)


def check_key(log: Log, text: Column, column: Column, kind: DataType, name: str, verbatim: bool = False) -> Column:
    """Return the reason why a value cannot be an id (missing, or rounded by a float), null if it can.

    Args:
        log: The log of the column.
        text: The text of the column, from `to_text`.
        column: The column.
        kind: Its type; the caller rejects lists and structs.
        name: The name of the column in the reason.
        verbatim: As in `to_text`.
    """
    checks = [F.when(F.coalesce(F.trim(text) == "", F.lit(True)), F.lit(f"{name}: missing"))]
    if isinstance(kind, FloatType | DoubleType):
        checks.append(F.when(is_rounded(column, kind), F.lit(f"{name}: {LOST}")))
    if isinstance(kind, FloatType | DoubleType | DecimalType):
        checks.append(F.when(column != F.floor(column), F.lit(f"{name}: an id cannot have a fraction")))
    if isinstance(kind, BinaryType):
        checks.append(F.when(~F.is_valid_utf8(column.cast("string")), F.lit(f"{name}: bytes are not valid UTF-8")))
    if isinstance(kind, StringType) and not verbatim and log.format in ("csv", "json"):
        # A float written as text by another tool: 1.23E18 has lost its last digits.
        number = F.when(column.rlike(_JAVA_FLOAT) | column.rlike(_WHOLE), column.try_cast("double"))
        rounded = is_rounded(number, DoubleType()) | column.rlike(_ROUNDED_FLOAT)
        checks.append(F.when(rounded, F.lit(f"{name}: {LOST}")))
    return F.coalesce(*checks)


_GROUPED = r"^[+-]?\d{1,3}(\.\d{3})+(,\d*)?$"
LOST = "a float this large has lost digits; write the id as an integer or as text"


def is_rounded(column: Column, kind: DataType) -> Column:
    """Return whether a float is so large that different integers have become the same."""
    limit = _EXACT_FLOATS["float" if isinstance(kind, FloatType) else "double"]
    rounded: Column = F.abs(column) >= limit
    return rounded


def is_undecodable(text: Column, log: Log) -> Column:
    """Return whether a text could not be decoded with the log's encoding."""
    # CSV and JSON are already decoded, with a mark for invalid bytes. Typed formats still hold the bytes.
    return text.contains(REPLACEMENT) if log.format in ("csv", "json") else ~F.is_valid_utf8(text)


def to_number(text: Column, decimal: str = ".") -> Column:
    """Parse text as a number, null if it is not one; `true` is 1 and `false` 0.

    Args:
        text: A column of text.
        decimal: The decimal separator; with a comma, dots between groups of three digits are removed.
    """
    plain = F.trim(text)
    if decimal == ",":
        grouped = plain.rlike(_GROUPED)
        plain = F.when(grouped, F.regexp_replace(plain, r"\.", "")).when(~plain.contains("."), plain)
        plain = F.regexp_replace(plain, ",", ".")
    lower = F.lower(plain)
    # Java parses 1d and 1f as numbers; log writers do not mean that.
    number = F.when(~lower.rlike("[0-9.][df]$"), plain.try_cast("double"))
    return F.coalesce(number, F.when(lower == "true", F.lit(1.0)).when(lower == "false", F.lit(0.0)))


def to_numbers(texts: Sequence[Column], decimal: str) -> Column:
    """Parse several texts as an array of numbers, with one expression for all of them (see `to_number`)."""

    def parse(text: Column) -> Column:
        return to_number(text, decimal)

    return F.transform(F.array(*texts), parse)


def to_plain_number(text: Column) -> Column:
    """Rewrite a number with a decimal comma with a decimal point; return any other text unchanged."""
    number = to_number(text, ",").cast("string")
    return F.coalesce(F.when(text.contains(",") | text.rlike(_GROUPED), number), text)


def _convert_scalar(column: Column, kind: DataType) -> Column:
    if isinstance(kind, FloatType | DoubleType):
        digits = F.when(
            (column == F.floor(column)) & (F.abs(column) < 1e18), column.cast("decimal(20, 0)").cast("string")
        )
        return F.when(~F.isnan(column), F.coalesce(digits, column.cast("string")))
    if isinstance(kind, DecimalType):
        text = column.cast("string")
        return F.when(text.contains("."), F.regexp_replace(text, r"\.?0+$", "")).otherwise(text)
    if isinstance(kind, BinaryType):  # text without a logical type, or bytes
        text = column.cast("string")
        return F.when(F.is_valid_utf8(text), text).otherwise(F.base64(column))
    return column.cast("string")


def _normalize_whole_number(text: Column, decimal: str) -> Column:
    """Remove the fraction or exponent of a whole number; return any other text unchanged."""
    # The cheap test first: most texts do not need the regular expression.
    fraction = text.contains(".0") & text.rlike(_WHOLE)
    if decimal == ",":  # 1.000 is a thousand
        fraction = (fraction & ~text.rlike(_GROUPED)) | (text.contains(",0") & text.rlike(_WHOLE_WITH_COMMA))
    exponent = text.contains("E") & text.rlike(_JAVA_FLOAT)
    number = text.try_cast("decimal(38, 18)")
    digits = F.when(number == F.floor(number), number.cast("decimal(38, 0)").cast("string"))
    return (
        F.when(fraction, F.regexp_replace(text, r"[.,]0+$", ""))
        .when(exponent, F.coalesce(digits, text))
        .otherwise(text)
    )


def _drop_null_values(log: Log, text: Column) -> Column:
    tokens = sorted({token.strip() for token in log.null_values})
    # Tabs and no-break spaces are as empty as spaces.
    bare = F.trim(F.translate(text, "\t\r\n\u00a0", "    "))
    return F.when(~bare.isin(tokens), text) if tokens else text
