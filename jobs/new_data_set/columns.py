"""Infer the type and the text format of each column of a sample."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

Kind = Literal["integer", "number", "text", "list", "time", "day", "struct", "empty"]

_FIRST, _LAST = dt.datetime(2000, 1, 1, tzinfo=dt.UTC).timestamp(), dt.datetime(2060, 1, 1, tzinfo=dt.UTC).timestamp()
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{1,2}:\d{2}.*")
_PATTERNS = {
    "%Y-%m-%d": "yyyy-MM-dd", "%Y/%m/%d": "yyyy/MM/dd", "%Y%m%d": "yyyyMMdd", "%y%m%d%H": "yyMMddHH",
    "%Y%m%d%H": "yyyyMMddHH", "%Y%m%d%H%M%S": "yyyyMMddHHmmss", "%Y/%m/%d %H:%M:%S": "yyyy/MM/dd HH:mm:ss",
    "%Y/%m/%d %H:%M": "yyyy/MM/dd HH:mm", "%d.%m.%Y %H:%M:%S": "dd.MM.yyyy HH:mm:ss",
    "%d/%m/%Y %H:%M:%S": "dd/MM/yyyy HH:mm:ss", "%m/%d/%Y %H:%M:%S": "MM/dd/yyyy HH:mm:ss",
}  # fmt: skip
"""strptime patterns, with the equivalent Spark patterns."""
_SEPARATORS = ("|", ";", ",")
_FORMAT_VALUES = 2_000
"""Maximum number of distinct values used to detect formats and separators."""


class Column(NamedTuple):
    """A column of a sample.

    Attributes:
        name: The name.
        kind: What its values are.
        values: The values that are not missing, as text or numbers.
        missing: The share of missing values.
        distinct: The number of distinct values.
        unit: For a time: `s`, `ms` or `timestamp`.
        format: For a time or day in text: its Spark date pattern; None for ISO 8601.
        separator: For text that lists values: what separates them.
        decimal: The decimal separator of a number in text.
    """

    name: str
    kind: Kind
    values: pd.Series
    missing: float
    distinct: int
    unit: str | None = None
    format: str | None = None
    separator: str | None = None
    decimal: str = "."

    @property
    def words(self) -> list[str]:
        """The words of the name, in lower case: `userID` -> user, id."""
        spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", self.name)
        return re.findall(r"[a-z]+|\d+", spaced.lower())

    @property
    def is_binary(self) -> bool:
        """Whether there are two values, as in a label."""
        return self.distinct == 2


def describe_columns(rows: pd.DataFrame) -> dict[str, Column]:
    """Describe the columns of a sample by name."""
    return {str(name): describe_column(str(name), rows[name]) for name in rows.columns}


def describe_column(name: str, series: pd.Series) -> Column:
    """Describe a column.

    Args:
        name: The name.
        series: Its values, of any type.

    Returns:
        The description.
    """
    values = series.dropna()
    missing = 1 - len(values) / max(len(series), 1)
    if values.empty:
        return Column(name, "empty", values, missing, 0)
    first = values.iloc[0]
    if isinstance(first, list | np.ndarray):
        joined = values.map(lambda v: "\x1f".join(map(str, v)))
        return Column(name, "list", joined, missing, joined.nunique())
    if isinstance(first, dict):
        return Column(name, "struct", values.astype(str), missing, 0)
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        return Column(name, "time", values, missing, values.nunique(), unit="timestamp")
    if isinstance(first, dt.date):
        return Column(name, "day", values.astype(str), missing, values.nunique())
    if isinstance(first, bool | np.bool_):
        values = values.map({True: "true", False: "false"})
    return _describe_scalars(name, values, missing)


def _describe_scalars(name: str, values: pd.Series, missing: float) -> Column:
    is_text = values.map(lambda v: isinstance(v, str)).any()
    distinct = int(values.nunique())
    sample = values.astype(str).drop_duplicates().head(_FORMAT_VALUES) if is_text else values
    decimal = "."
    if is_text and sample.str.fullmatch(r"-?\d{1,3}(\.\d{3})*,\d+|-?\d+,\d+").mean() > 0.9:
        decimal = ","
    numbers = _to_numbers(values, decimal)
    if numbers is None:
        text = values.astype(str)
        unit_and_format = _detect_time_format(sample.astype(str))
        if unit_and_format is not None:
            kind, found = unit_and_format
            return Column(name, kind, text, missing, distinct, "timestamp" if kind == "time" else None, found)
        return Column(name, "text", text, missing, distinct, separator=_detect_separator(sample.astype(str)))
    is_whole = bool((numbers % 1 == 0).all()) and bool((numbers.abs() < 2**63).all())
    if not is_whole:
        return Column(name, "number", numbers, missing, distinct, decimal=decimal)
    unit = next(
        (u for u, scale in (("s", 1), ("ms", 1000)) if numbers.between(_FIRST * scale, _LAST * scale).all()), None
    )
    if unit is not None and _is_time_like(name, numbers):
        return Column(name, "time", numbers, missing, distinct, unit)
    written = _detect_time_format(_format_integers(sample), only_digits=True)
    if written is not None:
        kind, found = written
        return Column(
            name, kind, _format_integers(values), missing, distinct, "timestamp" if kind == "time" else None, found
        )
    return Column(name, "integer", _format_integers(values), missing, distinct)


def _to_numbers(values: pd.Series, decimal: str) -> pd.Series | None:
    """Return the values as floats; None if some are not numbers."""
    if decimal == ",":
        values = values.astype(str).str.replace(".", "", regex=False).str.replace(",", ".", regex=False)
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.isna().any() or numbers.dtype == bool:
        return None
    return numbers.astype(float)


def _format_integers(values: pd.Series) -> pd.Series:
    """Return whole numbers as text, as they are stored: 12.0 -> 12."""
    return values.astype(str).str.removesuffix(".0")


def _is_time_like(name: str, numbers: pd.Series) -> bool:
    """Return whether numbers in the range of times are times and not ids: by the name, or because they are close."""
    return bool(re.search(r"time|(^|_)(ts|at|date)($|_)|stamp", name.lower())) or numbers.std() < 0.01 * numbers.mean()


def _detect_time_format(texts: pd.Series, only_digits: bool = False) -> tuple[Kind, str | None] | None:
    """Return the kind (time or day) and the Spark pattern, None for ISO 8601; None if the texts are neither."""
    if not only_digits and texts.map(lambda t: _ISO.fullmatch(t) is not None).mean() > 0.99:
        return "time", None
    for pattern, written in _PATTERNS.items():
        if only_digits != pattern.replace("%", "").isalpha():
            continue
        if _all_parse(texts, pattern):
            return ("time" if "H" in written else "day"), written
    return None


def _all_parse(texts: Iterable[str], pattern: str) -> bool:
    width = len(dt.datetime(2000, 1, 1).strftime(pattern))
    for text in texts:
        if len(text) != width:
            return False
        try:
            parsed = dt.datetime.strptime(text, pattern)
        except ValueError:
            return False
        if not 2000 <= parsed.year < 2060:
            return False
    return True


def _detect_separator(texts: pd.Series) -> str | None:
    """Return the separator if the texts are lists whose parts recur; None otherwise."""
    for separator in _SEPARATORS:
        parts = texts.str.split(separator, regex=False)
        if (parts.str.len() > 1).mean() < 0.2:
            continue
        flat = parts.explode().str.strip()
        if len(flat) >= 1.5 * flat.nunique() and flat.str.len().mean() < 20:
            return separator
    return None
