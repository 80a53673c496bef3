"""Exact sums of doubles and of their squares, for the full range of doubles and in any order. Needs only NumPy.

A double is a 53-bit integer times a power of two. The integers are summed per exponent, in parts small enough that sums
of doubles and of 64-bit integers are exact. Python integers combine the parts. Mean and standard deviation are rounded
once, at the end.
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
_MANTISSA = 53
_HALF = 27
"""Bits of the lower half of a mantissa."""
_MASK = (1 << _HALF) - 1
_UNIT = _MANTISSA - _SMALLEST
"""Sums are integer multiples of 2^-1126, sums of squares multiples of 2^-2252."""
_ROWS = 1 << 16
"""Rows per block: fits the cache, and sums of integers up to 2^27 are exact in doubles."""


class ExactSums:
    """The count of finite doubles, their sum and, with `squares`, the sum of their squares.

    `total` and `total_squares` are integers in units of 2^-1126 and 2^-2252.
    """

    def __init__(self, squares: bool = True, count: int = 0, total: int = 0, total_squares: int = 0) -> None:
        self.squares = squares
        self.count, self._sum_over_group, self._total_squares = count, total, total_squares
        self._parts = np.zeros((2, _EXPONENTS), np.int64)
        self._square_parts = np.zeros((6 if squares else 0, _EXPONENTS), np.int64)

    def add(self, x: Floats) -> None:
        """Add `x`, (n,) finite doubles."""
        for start in range(0, len(x), _ROWS):
            self._add(x[start : start + _ROWS])

    def _add(self, x: Floats) -> None:
        mantissa, exponent = np.frexp(x)
        whole = np.ldexp(mantissa, _MANTISSA).astype(np.int64)
        place = exponent - _SMALLEST
        high, low = whole >> _HALF, whole & _MASK
        self.count += len(x)
        self._parts += _sum_by_exponent(place, high, low)
        if self.squares:
            # (high * 2^27 + low)^2: each of the three products is split into two parts of at most 27 bits.
            products = (high * high, high * low, low * low)
            parts = [part for product in products for part in (product >> _HALF, product & _MASK)]
            self._square_parts += _sum_by_exponent(place, *parts)

    @property
    def total(self) -> int:
        """The sum in units of 2^-1126."""
        self._fold()
        return self._sum_over_group

    @property
    def total_squares(self) -> int:
        """The sum of squares in units of 2^-2252."""
        self._fold()
        return self._total_squares

    def _fold(self) -> None:
        """Fold the sums per exponent into the totals."""
        for place in np.flatnonzero(self._parts.any(axis=0)).tolist():
            high, low = self._parts[:, place].tolist()
            self._sum_over_group += ((high << _HALF) + low) << place
        self._parts[:] = 0
        for place in np.flatnonzero(self._square_parts.any(axis=0)).tolist():
            hh, hh_low, hl, hl_low, ll, ll_low = self._square_parts[:, place].tolist()
            of_high, of_both, of_low = (hh << _HALF) + hh_low, (hl << _HALF) + hl_low, (ll << _HALF) + ll_low
            whole = (of_high << 2 * _HALF) + (of_both << _HALF + 1) + of_low
            self._total_squares += whole << 2 * place
        self._square_parts[:] = 0

    def merge(self, count: int, total: int, total_squares: int = 0) -> None:
        """Add the count and the totals of another set of numbers."""
        self.count += count
        self._sum_over_group += total
        self._total_squares += total_squares

    def mean(self) -> float:
        """The mean, rounded once; 0.0 if there are no numbers."""
        return float(Fraction(self.total, self.count << _UNIT)) if self.count else 0.0

    def deviation(self) -> float:
        """The population standard deviation (`ddof` 0); 0.0 only if all numbers are equal."""
        total, n = self.total, self.count
        variance = n * self.total_squares - total * total
        return _sqrt_ratio(variance, (n * n) << 2 * _UNIT) if variance else 0.0


def _sum_by_exponent(place: Ints, *parts: Ints) -> Ints:
    """Sum each of `parts` (n,) by `place` (n,): (parts, exponents)."""
    return np.stack([np.bincount(place, part, _EXPONENTS) for part in parts]).astype(np.int64)


def _sqrt_ratio(numerator: int, denominator: int) -> float:
    """Return the square root of a positive ratio as a double greater than 0."""
    shift = 2 * 64 - numerator.bit_length() + denominator.bit_length()
    shift += shift & 1
    ratio = (numerator << shift) // denominator if shift >= 0 else numerator // (denominator << -shift)
    root, half = math.isqrt(ratio), shift // 2
    return max(float(Fraction(root, 1 << half) if half >= 0 else root << -half), math.ulp(0.0))
