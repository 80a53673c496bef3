"""Exact sums of doubles and of their squares, over the full range of doubles. Requires only NumPy.

The result does not depend on the order of the numbers or on how they are partitioned. The algorithm:

1. Split each double into a 53-bit integer and an exponent of two, and the integer into two parts.
2. Sum the parts by exponent. They are small enough that sums in doubles and in 64-bit integers are exact.
3. Combine the sums of all exponents into one Python integer.
4. Round the mean and the standard deviation once, at the end.

This is slower than floating-point sums, but the sums have no rounding error.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_SMALLEST = -1073
"""The exponent that `frexp` returns for the smallest double."""
_EXPONENTS = 1024 - _SMALLEST + 1
"""Number of different exponents."""
_MANTISSA = 53
"""Bits of a mantissa."""
_HALF = 27
"""Bits of the lower half of a mantissa."""
_MASK = (1 << _HALF) - 1
_UNIT = _MANTISSA - _SMALLEST
"""Sums are multiples of 2^-_UNIT = 2^-1126, and sums of squares are multiples of 2^-2252."""
_ROWS = 1 << 16
"""Rows per block. A block fits into the cache, and its sums of integers up to 2^27 are exact in doubles."""


class ExactSums:
    """The exact count and sum of finite doubles, and optionally the sum of their squares.

    Args:
        squares: Whether to sum the squares, which `deviation` requires.
        count: The initial count.
        total: The initial sum, in units of 2^-1126.
        total_squares: The initial sum of squares, in units of 2^-2252.
    """

    def __init__(self, squares: bool = True, count: int = 0, total: int = 0, total_squares: int = 0) -> None:
        self.squares = squares
        self.count, self._total, self._total_squares = count, total, total_squares
        self._parts = np.zeros((2, _EXPONENTS), np.int64)
        self._square_parts = np.zeros((6 if squares else 0, _EXPONENTS), np.int64)

    @classmethod
    def of_flags(cls, ones: int, count: int) -> ExactSums:
        """Return the sums of `count` numbers, of which `ones` are 1 and all others are 0."""
        return cls(True, count, ones << _UNIT, ones << 2 * _UNIT)

    def add(self, x: Floats) -> None:
        """Add finite doubles of shape (n,)."""
        for start in range(0, len(x), _ROWS):
            self._add(x[start : start + _ROWS])

    def _add(self, x: Floats) -> None:
        """Add one block of at most `_ROWS` numbers."""
        mantissa, exponent = np.frexp(x)
        whole = np.ldexp(mantissa, _MANTISSA).astype(np.int64)
        index = exponent - _SMALLEST
        high, low = whole >> _HALF, whole & _MASK
        self.count += len(x)
        self._parts += _sum_by_exponent(index, high, low)
        if self.squares:
            # (high * 2^27 + low)^2 has three products. Split each one into two parts of at most 27 bits.
            products = (high * high, high * low, low * low)
            parts = [part for product in products for part in (product >> _HALF, product & _MASK)]
            self._square_parts += _sum_by_exponent(index, *parts)

    @property
    def total(self) -> int:
        """The sum in units of 2^-1126."""
        self._fold()
        return self._total

    @property
    def total_squares(self) -> int:
        """The sum of squares in units of 2^-2252."""
        self._fold()
        return self._total_squares

    def _fold(self) -> None:
        """Add the sums by exponent to the totals, and reset them."""
        for index in np.flatnonzero(self._parts.any(axis=0)).tolist():
            high, low = self._parts[:, index].tolist()
            self._total += ((high << _HALF) + low) << index
        self._parts[:] = 0
        for index in np.flatnonzero(self._square_parts.any(axis=0)).tolist():
            hh, hh_low, hl, hl_low, ll, ll_low = self._square_parts[:, index].tolist()
            high_high, high_low, low_low = (hh << _HALF) + hh_low, (hl << _HALF) + hl_low, (ll << _HALF) + ll_low
            whole = (high_high << 2 * _HALF) + (high_low << _HALF + 1) + low_low
            self._total_squares += whole << 2 * index
        self._square_parts[:] = 0

    def merge(self, count: int, total: int, total_squares: int = 0) -> None:
        """Add the sums of other numbers.

        Args:
            count: The count of the numbers.
            total: Their sum, in units of 2^-1126.
            total_squares: The sum of their squares, in units of 2^-2252.
        """
        self.count += count
        self._total += total
        self._total_squares += total_squares

    def mean(self) -> float:
        """Return the mean, rounded once; 0.0 if there are no numbers."""
        return float(Fraction(self.total, self.count << _UNIT)) if self.count else 0.0

    def deviation(self) -> float:
        """Return the population standard deviation (`ddof` = 0); 0.0 only if no two numbers differ."""
        total, n = self.total, self.count
        variance = n * self.total_squares - total * total
        return compute_root(variance, (n * n) << 2 * _UNIT) if variance else 0.0


def _sum_by_exponent(index: Ints, *parts: Ints) -> Ints:
    """Sum each of `parts`, of shape (n,), by `index`, of shape (n,); returns an array of shape (parts, exponents)."""
    return np.stack([np.bincount(index, part, _EXPONENTS) for part in parts]).astype(np.int64)


def compute_root(numerator: int, denominator: int) -> float:
    """Compute the square root of a positive ratio.

    Args:
        numerator: A positive integer.
        denominator: A positive integer.

    Returns:
        A double greater than 0.
    """
    shift = 2 * 64 - numerator.bit_length() + denominator.bit_length()
    shift += shift & 1
    ratio = (numerator << shift) // denominator if shift >= 0 else numerator // (denominator << -shift)
    root, half = math.isqrt(ratio), shift // 2
    return max(float(Fraction(root, 1 << half) if half >= 0 else root << -half), math.ulp(0.0))
