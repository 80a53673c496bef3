"""Infer the type of each column of a sample."""

from __future__ import annotations

import datetime as dt
import re
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from star_ctr.jobs.new_data_set.column_words import LABEL, matches_words
from star_ctr.jobs.new_data_set.time_formats import TimeFormat, detect_epoch, detect_time_format
from star_ctr.jobs.new_data_set.vector_formats import VectorFormat, detect_vectors, is_empty_list

Kind = Literal["integer", "number", "text", "list", "vector", "time", "day", "struct", "empty"]

_SEPARATORS = ("|", ";", ",")
_FORMAT_VALUES = 2_000
"""Maximum number of distinct values used to detect formats and separators."""
_COMMA_DECIMAL = r"-?\d+,\d+|-?\d{1,3}(\.\d{3})+,\d+"
_COMMA_THOUSANDS = r"-?\d{1,3}(,\d{3})+"
_IDENTIFIERS = frozenset({"id", "key", "hash", "code"})
"""Words of the names of numbers that are never times."""


class Column(NamedTuple):
    """A column of a sample.

    Attributes:
        name: The name.
        kind: What its values are.
        values: The values that are not missing, as text or numbers.
        missing: The share of missing values.
        distinct: The number of distinct values.
        time: For a time or day: how it is written.
        separator: For text that lists values: what separates them.
        decimal: The decimal separator of a number, or of the numbers of a vector, in text.
        vector: For a vector: how it is written.
    """

    name: str
    kind: Kind
    values: pd.Series
    missing: float
    distinct: int
    time: TimeFormat | None = None
    separator: str | None = None
    decimal: str = "."
    vector: VectorFormat | None = None

    @property
    def words(self) -> list[str]:
        """The words of the name, in lower case: `userID` -> user, id."""
        return split_words(self.name)


def split_words(name: str) -> list[str]:
    """Return the words of a name, in lower case: `userID` -> user, id."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return re.findall(r"[a-z]+|\d+", spaced.lower())


def names_clicks(path: str) -> bool:
    """Return whether the path of a log says that it contains clicks."""
    return matches_words(split_words(path), LABEL)


def describe_columns(rows: pd.DataFrame, allow_commas: bool = True) -> dict[str, Column]:
    """Describe the columns of a sample.

    Args:
        rows: The sample.
        allow_commas: Whether numbers in text may have decimal commas. All numbers of a log have the same separator, so
            they are only accepted if no number has a decimal point.

    Returns:
        The columns by name.
    """
    columns = {str(name): describe_column(str(name), rows[name], allow_commas) for name in rows.columns}
    has_points = any(
        c.kind == "number" and c.decimal == "." and isinstance(rows[n].dropna().iloc[0], str)
        for n, c in columns.items()
    )
    if allow_commas and has_points and any(column.decimal == "," for column in columns.values()):
        return describe_columns(rows, allow_commas=False)
    return columns


def describe_column(name: str, series: pd.Series, allow_commas: bool = True) -> Column:
    """Describe a column.

    Args:
        name: The name.
        series: Its values, of any type.
        allow_commas: Whether numbers in text may have decimal commas.

    Returns:
        The description.
    """
    values = series.dropna()
    missing = 1 - len(values) / max(len(series), 1)
    if values.empty:
        return Column(name, "empty", values, missing, 0)
    first = values.iloc[0]
    if isinstance(first, list | np.ndarray | str) and (found := detect_vectors(values, allow_commas)):
        return Column(name, "vector", values, missing, 0, decimal=found.decimal, vector=found)
    if isinstance(first, list | np.ndarray):
        if all(is_empty_list(value) for value in values):
            return Column(name, "empty", values, 1.0, 0)
        joined = values.map(lambda v: "\x1f".join(map(str, v)))
        return Column(name, "list", joined, missing, joined.nunique())
    if isinstance(first, dict):
        return Column(name, "struct", values.astype(str), missing, 0)
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        return Column(name, "time", values, missing, values.nunique(), TimeFormat("timestamp"))
    if isinstance(first, dt.date):
        return Column(name, "day", values.astype(str), missing, values.nunique(), TimeFormat("timestamp", "yyyy-MM-dd"))
    if isinstance(first, bool | np.bool_):
        values = values.map({True: "true", False: "false"})
    return _describe_scalars(name, values, missing, allow_commas)


def _describe_scalars(name: str, values: pd.Series, missing: float, allow_commas: bool) -> Column:
    is_text = values.map(lambda v: isinstance(v, str)).any()
    distinct = int(values.nunique())
    sample = values.astype(str).drop_duplicates().head(_FORMAT_VALUES)
    decimal = "."
    if is_text and allow_commas and sample.str.fullmatch(_COMMA_DECIMAL).mean() > 0.9:
        # With three digits after each comma, the comma may also group thousands.
        decimal = "." if sample.str.fullmatch(_COMMA_THOUSANDS + r"|-?\d{1,3}").all() else ","
    numbers = _to_numbers(values, decimal)
    if numbers is None:
        found = detect_time_format(sample)
        if found is not None:
            return Column(name, "time" if found.has_time else "day", values.astype(str), missing, distinct, found)
        return Column(name, "text", values.astype(str), missing, distinct, separator=_detect_separator(sample))
    if not bool((numbers % 1 == 0).all()):
        return Column(name, "number", numbers, missing, distinct, decimal=decimal)
    is_identifier = bool(_IDENTIFIERS & set(split_words(name)))
    epoch = None if is_identifier else detect_epoch(name, numbers)
    if epoch is not None:
        return Column(name, "time", numbers, missing, distinct, epoch)
    texts = values.astype(str).str.removesuffix(".0")
    found = None if is_identifier else detect_time_format(sample.str.removesuffix(".0"), only_digits=True)
    if found is not None:
        return Column(name, "time" if found.has_time else "day", texts, missing, distinct, found)
    return Column(name, "integer", texts, missing, distinct)


def _to_numbers(values: pd.Series, decimal: str) -> pd.Series | None:
    """Return the values as floats; None if some are not numbers."""
    if decimal == ",":
        values = values.astype(str).str.replace(".", "", regex=False).str.replace(",", ".", regex=False)
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.isna().any() or numbers.dtype == bool:
        return None
    return numbers.astype(float)


def _detect_separator(texts: pd.Series) -> str | None:
    """Return the separator if the texts are lists whose parts recur; None otherwise."""
    for separator in _SEPARATORS:
        parts = texts.str.split(separator, regex=False)
        if (parts.str.len() > 1).mean() < 0.2:
            continue
        flat = parts.explode().str.strip()
        if flat.str.count(" ").mean() > 0.5:  # sentences
            continue
        if len(flat) >= 1.5 * flat.nunique() and flat.str.len().mean() < 20:
            return separator
    return None
