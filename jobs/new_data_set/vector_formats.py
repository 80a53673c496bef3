"""Find columns of vectors in a sample: lists, or texts, most of which have the same number of numbers."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

_VALUES = 2_000
"""Maximum number of lists that are examined."""
_SHARE = 0.95
"""Minimum share of lists of whole numbers with the usual length."""
_MIN_USUAL = 0.5
"""The same for lists of decimal numbers, which cannot be categories."""
_MIN_DECIMAL = 0.05
"""Minimum share of lists with decimal numbers: text and JSON may write 0.0 as 0."""
_MAX_LENGTH = 4_096
_LENGTHS = range(8, _MAX_LENGTH + 1)
"""Lengths of vectors of whole numbers. Shorter ones are more often coordinates, sizes or grouped thousands."""
_SEPARATORS = (",", ";", "|", " ")
_GROUPED = r"-?\d+(\.\d+)?|-?\d{1,3}([ ,]\d{3})+(\.\d+)?|-?\d{1,3}(\.\d{3})+,\d+|-?\d+,\d+"
"""Single numbers that may contain a separator of lists: 1,234.5 or 1.234,5."""
_NOT_A_NUMBER = frozenset({"", "null", "none", "na", "n/a", "<na>"})
"""Elements of a text that stand for a missing number, in lower case."""


class VectorFormat(NamedTuple):
    """How vectors are written.

    Attributes:
        length: The usual number of elements.
        separator: What separates the numbers of a text; None for lists.
        usual: The number of examined lists that have this length and only finite numbers.
        examined: The number of examined lists. Empty lists are missing values, and are not counted.
        decimal: The decimal separator of the numbers of a text.
        is_whole: Whether all numbers are whole and not negative, as codes are.
        problem: Why the lists cannot be vectors; empty if they can.
    """

    length: int
    separator: str | None
    usual: int
    examined: int
    decimal: str = "."
    is_whole: bool = False
    problem: str = ""


class _NumberList(NamedTuple):
    """The numbers of a list, and whether they are written as decimal numbers."""

    numbers: npt.NDArray[np.float64]
    is_decimal: bool


def is_empty_list(value: Any) -> bool:
    """Return whether a value is a list, array or text without elements, which counts as missing."""
    if isinstance(value, str):
        return not value.strip("[](){} \t")
    return isinstance(value, list | np.ndarray) and len(value) == 0


def detect_vectors(values: pd.Series, allow_commas: bool = True) -> VectorFormat | None:
    """Return how the vectors of a column are written.

    Args:
        values: The values that are not missing: lists, arrays or texts.
        allow_commas: Whether numbers in text may have decimal commas.

    Returns:
        The format; None if the values are not lists of numbers. Lists of whole numbers are vectors only if nearly all
        have the same length and some numbers are negative, because they are more often codes.
    """
    sample = values[[not is_empty_list(value) for value in values]].head(_VALUES)
    if sample.empty:
        return None
    if not isinstance(sample.iloc[0], str):
        return _find_length([_read_list(value) for value in sample], None)
    texts = sample.astype(str).str.strip().str.replace(r"^[\[({]\s*|\s*[\])}]$", "", regex=True)
    for separator in _SEPARATORS:
        if texts.str.contains(separator, regex=False).mean() < _MIN_USUAL:
            continue
        if separator in ", " and texts.str.fullmatch(_GROUPED).mean() > 0.9:
            continue
        for decimal in (".", ",") if allow_commas and separator != "," else (".",):
            pattern = r"\s+" if separator == " " else re.escape(separator)
            parts = [re.split(pattern, text.replace(decimal, ".")) for text in texts]
            if found := _find_length([_read_texts(own) for own in parts], separator):
                return found._replace(decimal=decimal)
    return None


def _read_texts(parts: list[str]) -> _NumberList | None:
    return _read_list(["nan" if part.strip().lower() in _NOT_A_NUMBER else part for part in parts])


def _read_list(value: Any) -> _NumberList | None:
    """Return the elements as numbers; None if some are neither numbers nor missing."""
    if not isinstance(value, list | np.ndarray):
        return None
    try:
        # An array of objects may hold numbers of one type.
        elements = np.asarray(list(value) if isinstance(value, np.ndarray) and value.dtype == object else value)
        if elements.ndim != 1 or elements.dtype.kind == "b":
            return None
        numbers = elements.astype(np.float64)
    except (TypeError, ValueError):
        return None
    finite = numbers[np.isfinite(numbers)]
    has_fraction = bool((finite % 1 != 0).any())
    is_float = elements.dtype.kind == "f" or (elements.dtype.kind == "U" and any("." in text for text in elements))
    # Whole numbers may be floats only because another one is missing.
    return _NumberList(numbers, has_fraction or (is_float and len(finite) == len(numbers)))


def _find_length(lists: list[_NumberList | None], separator: str | None) -> VectorFormat | None:
    numeric = [own for own in lists if own is not None]
    if len(numeric) < _MIN_USUAL * len(lists):
        return None
    lengths = pd.Series([len(own.numbers) for own in numeric], dtype=int)
    length = int(lengths.mode()[0])
    share = float((lengths == length).sum() / len(lists))
    usual = [own.numbers for own in numeric if len(own.numbers) == length and np.isfinite(own.numbers).all()]
    is_whole = all(_is_whole(own.numbers) for own in numeric)
    found = VectorFormat(length, separator, len(usual), len(lists), is_whole=is_whole)
    if sum(own.is_decimal for own in numeric) < max(_MIN_DECIMAL * len(numeric), 1):
        is_regular = len(usual) >= _SHARE * len(lists) and length in _LENGTHS
        return None if not is_regular or all(_is_whole(own) for own in usual) else found
    if share < _MIN_USUAL:
        return found._replace(
            problem=f"lists of decimal numbers of different lengths; the most common length, {length}, is that of "
            f"{share:.0%} of {len(lists):,} lists, and a vector needs lists of one length"
        )
    if length > _MAX_LENGTH:
        return found._replace(problem=f"lists of {length:,} numbers; a vector has at most {_MAX_LENGTH:,}")
    if not usual:
        return found._replace(problem=f"lists of {length} numbers, but each has elements that are not finite")
    return found


def _is_whole(numbers: npt.NDArray[np.float64]) -> bool:
    finite = numbers[np.isfinite(numbers)]
    return bool((finite >= 0).all() and (finite % 1 == 0).all())
