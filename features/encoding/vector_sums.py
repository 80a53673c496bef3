"""Exact sums of vectors of 32-bit floats. Requires only NumPy.

The result does not depend on the order of the vectors or on how they are partitioned. The algorithm:

1. Split each number into a 24-bit integer and an exponent of two, so that it is a multiple of 2^-172.
2. Add the integer, shifted by its exponent, to an accumulator of ten 32-bit digits per element. An integer touches two
   digits, and each digit is a 64-bit integer, so that carries are rare.
3. Combine the digits of an element into one Python integer at the end.

Accumulators of `exact_sums`, which cover all doubles, would take 33 KB per element; these take 80 bytes.
"""

from __future__ import annotations

import math
import zlib
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from star_ctr.features.encoding.exact_sums import ExactSums, compute_root
from star_ctr.features.encoding.vector_encoder import Singles, iter_blocks

Digits = npt.NDArray[np.int64]

_BITS = 32
"""Bits of a digit."""
_DIGITS = 10
"""Number of digits per element: 276 bits of exponents, 24 bits of an integer, and carries."""
_MASK = (1 << _BITS) - 1
_MANTISSA = 24
"""Bits of a mantissa."""
_SMALLEST = -148
"""The exponent that `frexp` returns for the smallest 32-bit float."""
_UNIT = _MANTISSA - _SMALLEST
"""Sums are multiples of 2^-_UNIT = 2^-172, and sums of squares are multiples of 2^-344."""
_DOUBLE_UNIT = 1126
"""`ExactSums` counts in units of 2^-1126."""


class VectorSums:
    """The exact count and sum of vectors, and the sum of the squares of all their elements.

    Args:
        length: The number of elements of each vector.
        packed: Sums from `pack`; by default, there are no vectors yet.
    """

    def __init__(self, length: int, packed: bytes | None = None) -> None:
        self.length, self.count = length, 0
        self._digits: Digits = np.zeros((length, _DIGITS), np.int64)
        self._squares = ExactSums(squares=False)
        if packed is not None:
            self._unpack(packed)

    def add(self, vectors: Singles) -> None:
        """Add finite vectors of shape (n, length)."""
        for part in iter_blocks(len(vectors), self.length):
            self._add(vectors[part])
        self.count += len(vectors)
        self._carry()

    def _add(self, x: Singles) -> None:
        """Add a block of vectors to the digits, without carries."""
        mantissa, exponent = np.frexp(x)
        whole = np.ldexp(mantissa, _MANTISSA).astype(np.int64)
        position = exponent.astype(np.int64) - _SMALLEST
        shifted = whole << position % _BITS
        digit = position // _BITS + _DIGITS * np.arange(self.length)
        size = self.length * _DIGITS
        # Sums of at most 2^18 integers below 2^32 are exact in doubles.
        low = np.bincount(digit.ravel(), (shifted & _MASK).ravel(), size)
        high = np.bincount(digit.ravel() + 1, (shifted >> _BITS).ravel(), size)
        self._digits += (low + high).astype(np.int64).reshape(self.length, _DIGITS)
        # The square of a 32-bit float has 48 bits, so it is exact in a double.
        self._squares.add(np.square(x.astype(np.float64)).ravel())

    def _carry(self) -> None:
        """Reduce all digits but the last one to 32 bits."""
        for k in range(_DIGITS - 1):
            self._digits[:, k + 1] += self._digits[:, k] >> _BITS
            self._digits[:, k] &= _MASK

    def merge(self, other: VectorSums) -> None:
        """Add the sums of other vectors."""
        self.count += other.count
        self._digits += other._digits
        self._carry()
        self._squares.merge(other._squares.count, other._squares.total)

    def pack(self) -> bytes:
        """Return the sums as compressed bytes: most digits are 0."""
        squares = self._squares.total
        head = [self.count, squares.bit_length() // 8 + 1]
        return zlib.compress(
            np.array(head, np.int64).tobytes() + squares.to_bytes(head[1], "big") + self._digits.tobytes(), level=1
        )

    def _unpack(self, packed: bytes) -> None:
        data = zlib.decompress(packed)
        self.count, size = np.frombuffer(data, np.int64, 2).tolist()
        self._squares.merge(self.count * self.length, int.from_bytes(data[16 : 16 + size], "big"))
        self._digits = np.frombuffer(data, np.int64, offset=16 + size).reshape(self.length, _DIGITS).copy()

    def list_totals(self) -> list[int]:
        """Return the sum of each element, in units of 2^-172."""
        return [sum(digit << _BITS * k for k, digit in enumerate(digits)) for digits in self._digits.tolist()]

    def compute_mean(self) -> list[float]:
        """Return the mean of each element, rounded once; 0.0 if there are no vectors."""
        return [float(Fraction(total, self.count << _UNIT)) if self.count else 0.0 for total in self.list_totals()]

    def compute_scale(self) -> float:
        """Return the root mean square of (x - mean) over all elements; 0.0 only if all vectors are equal."""
        n = self.count
        squares = self._squares.total >> _DOUBLE_UNIT - 2 * _UNIT
        variance = n * squares - sum(total * total for total in self.list_totals())
        return compute_root(variance, (n * n * self.length) << 2 * _UNIT) if variance else 0.0


def find_size_class(vectors: Singles) -> npt.NDArray[np.int32]:
    """Return floor(log2) of the root mean square of each vector, up to a constant; a small number for zeros.

    Args:
        vectors: Finite vectors, of shape (n, length).

    Returns:
        The classes, of shape (n,).
    """
    found = np.full(len(vectors), -math.inf)
    for part in iter_blocks(len(vectors), vectors.shape[1]):
        found[part] = np.square(vectors[part].astype(np.float64)).sum(axis=1)
    _, exponents = np.frexp(found)
    return np.where(found == 0.0, np.int32(-1_000), exponents // 2).astype(np.int32)
