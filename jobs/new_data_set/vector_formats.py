"""Find columns of vectors in a sample: lists, or texts, that nearly all have the same number of numbers."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

_VALUES = 2_000
"""Maximum number of values that are examined."""
_SHARE = 0.95
"""Minimum share of values with the usual length."""
_LENGTHS = range(8, 4_097)
"""Lengths of vectors. Shorter lists of numbers are more often coordinates, sizes or grouped thousands."""
_SEPARATORS = (",", ";", "|", " ")


class VectorFormat(NamedTuple):
    """How vectors are written.

    Attributes:
        length: The number of elements.
        separator: What separates the numbers of a text; None for lists.
        share: The share of the examined values that have this length.
        examined: The number of examined values.
    """

    length: int
    separator: str | None
    share: float
    examined: int


def detect_vectors(values: pd.Series) -> VectorFormat | None:
    """Return how the vectors of a column are written.

    Args:
        values: The values that are not missing: lists, arrays or texts.

    Returns:
        The format; None if the values are not vectors. Lists of whole numbers that are not negative are not vectors,
        because they are more often codes.
    """
    sample = values.head(_VALUES)
    if not isinstance(sample.iloc[0], str):
        return _find_length([_to_numbers(value) for value in sample], None)
    texts = sample.astype(str).str.strip().str.replace(r"^[\[({]\s*|\s*[\])}]$", "", regex=True)
    for separator in _SEPARATORS:
        if separator in texts.iloc[0]:
            pattern = r"\s+" if separator == " " else re.escape(separator)
            return _find_length([_to_numbers(re.split(pattern, text)) for text in texts], separator)
    return None


def _to_numbers(values: Any) -> npt.NDArray[np.float64] | None:
    """Return the elements as numbers; None if they are not all finite numbers."""
    if any(isinstance(value, bool | np.bool_) for value in values[:1]):
        return None
    try:
        numbers = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return numbers if numbers.ndim == 1 and np.isfinite(numbers).all() else None


def _find_length(vectors: list[npt.NDArray[np.float64] | None], separator: str | None) -> VectorFormat | None:
    lengths = pd.Series([len(vector) for vector in vectors if vector is not None], dtype=int)
    if lengths.empty:
        return None
    length = int(lengths.mode()[0])
    share = float((lengths == length).sum() / len(vectors))
    own = [vector for vector in vectors if vector is not None and len(vector) == length]
    are_codes = all((vector >= 0).all() and (vector % 1 == 0).all() for vector in own)
    if share < _SHARE or length not in _LENGTHS or are_codes:
        return None
    return VectorFormat(length, separator, share, len(vectors))
