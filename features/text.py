"""The one spelling of a value: what a column of any type is as text.

Logs of one data set are written by many hands: an id is an integer on one day and a float on the next, because pandas
met a missing value. Every file is brought into one spelling before it meets another: 12, 12.0 and 1.2E1 are all `12`.
Whatever cannot be spelled without loss is refused, and never rounded.
"""

from __future__ import annotations

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

from star_ctr.conf.logs import Log

REPLACEMENT = "\ufffd"
"""What a decoder puts where bytes are not of the declared encoding."""
NESTED = (StructType, MapType, VariantType)
_EXACT_FLOATS = {FloatType: 2.0**24, DoubleType: 2.0**53}
"""Below these, a float is exactly one whole number; from there on, different ids may have become the same."""
_WHOLE = r"^[+-]?\d+\.0+$"
_SCIENTIFIC = r"^[+-]?\d(\.\d+E|(\.\d+)?e\+)\d+$"
"""Large floats as Java (1.5E18) and Python (1.5e+18) write them; `7E10` may as well be an id in hexadecimal."""


def spell(log: Log, column: Column, kind: DataType, verbatim: bool = False) -> Column:
    """The text of a column: whole numbers without a fraction, lists as lists of text, objects as JSON.

    Args:
        log: Where the column comes from; its `null_values` become null.
        column: The column.
        kind: Its type.
        verbatim: Keep text letter by letter (a column that is declared a `string`).
    """
    if isinstance(kind, NESTED):
        return F.to_json(column)
    if isinstance(kind, ArrayType):
        if isinstance(kind.elementType, (*NESTED, ArrayType)):
            return F.transform(column, F.to_json)
        return F.transform(column, lambda x: _spell_plain(x, kind.elementType))
    text = _spell_plain(column, kind)
    if not isinstance(kind, StringType | BinaryType):
        return text
    text = _without_null_values(log, text)
    # Typed formats say themselves what is text; in CSV and JSON a number may have been written either way.
    return text if verbatim or log.format in ("parquet", "delta") else _whole_text(text)


def check_key(log: Log, text: Column, column: Column, kind: DataType, name: str, verbatim: bool = False) -> Column:
    """The reason why a value cannot be an id (missing, or rounded by a float), null where it can.

    Args:
        log: Where the column comes from.
        text: Its text, as `spell` makes it.
        column: The column.
        kind: Its type; a list or an object is the caller's to refuse.
        name: What the reason calls the column.
        verbatim: As in `spell`.
    """
    checks = [F.when(F.coalesce(F.trim(text) == "", F.lit(True)), F.lit(f"{name}: missing"))]
    if isinstance(kind, FloatType | DoubleType):
        checks.append(F.when(F.abs(column) >= _EXACT_FLOATS[type(kind)], F.lit(f"{name}: {_LOST}")))
    if isinstance(kind, FloatType | DoubleType | DecimalType):
        checks.append(F.when(column != F.floor(column), F.lit(f"{name}: a number with a fraction is no id")))
    if isinstance(kind, BinaryType):
        checks.append(F.when(~F.is_valid_utf8(column.cast("string")), F.lit(f"{name}: bytes that are no text")))
    if isinstance(kind, StringType) and not verbatim and log.format in ("csv", "json"):
        # A float of another tool's, written out: 1.23E18 has lost its last digits.
        number = F.when(column.rlike(_SCIENTIFIC) | column.rlike(_WHOLE), column.try_cast("double"))
        checks.append(F.when(F.abs(number) >= _EXACT_FLOATS[DoubleType], F.lit(f"{name}: {_LOST}")))
    return F.coalesce(*checks)


_LOST = "a float this large has lost digits; write the id as an integer or as text"


def is_undecodable(text: Column, log: Log) -> Column:
    """Whether a text holds what is not of the log's encoding."""
    # CSV and JSON have been decoded: what could not be is a mark now. In typed formats the bytes are still there.
    return text.contains(REPLACEMENT) if log.format in ("csv", "json") else ~F.is_valid_utf8(text)


def to_number(text: Column, decimal: str = ".") -> Column:
    """The number that a text says, null where it says none; `true` is 1 and `false` 0.

    Args:
        text: A column of text.
        decimal: The decimal separator; with a comma, dots between groups of three digits are left out.
    """
    plain = F.trim(text)
    if decimal == ",":
        grouped = plain.rlike(r"^[+-]?\d{1,3}(\.\d{3})+(,\d*)?$")
        plain = F.when(grouped, F.regexp_replace(plain, r"\.", "")).when(~plain.contains("."), plain)
        plain = F.regexp_replace(plain, ",", ".")
    lower = F.lower(plain)
    # Java reads 1d and 1f as numbers; nobody who writes logs does.
    number = F.when(~lower.rlike("[0-9.][df]$"), plain.try_cast("double"))
    return F.coalesce(number, F.when(lower == "true", F.lit(1.0)).when(lower == "false", F.lit(0.0)))


def _spell_plain(column: Column, kind: DataType) -> Column:
    if isinstance(kind, FloatType | DoubleType):
        digits = F.when(
            (column == F.floor(column)) & (F.abs(column) < 1e18), column.cast("decimal(20, 0)").cast("string")
        )
        return F.when(~F.isnan(column), F.coalesce(digits, column.cast("string")))
    if isinstance(kind, DecimalType):
        text = column.cast("string")
        return F.when(text.contains("."), F.regexp_replace(text, r"\.?0+$", "")).otherwise(text)
    if isinstance(kind, BinaryType):  # text of writers that do not say so, or bytes
        text = column.cast("string")
        return F.when(F.is_valid_utf8(text), text).otherwise(F.base64(column))
    return column.cast("string")


def _whole_text(text: Column) -> Column:
    """Text of a whole number without its fraction or exponent; any other text as it is."""
    # The cheap test first: most texts need no pattern.
    fraction = text.contains(".0") & text.rlike(_WHOLE)
    exponent = (text.contains("E") | text.contains("e+")) & text.rlike(_SCIENTIFIC)
    number = text.try_cast("decimal(38, 18)")
    digits = F.when(number == F.floor(number), number.cast("decimal(38, 0)").cast("string"))
    return (
        F.when(fraction, F.regexp_replace(text, r"\.0+$", "")).when(exponent, F.coalesce(digits, text)).otherwise(text)
    )


def _without_null_values(log: Log, text: Column) -> Column:
    tokens = sorted({token.strip() for token in log.null_values})
    return F.when(~F.trim(text).isin(tokens), text) if tokens else text
