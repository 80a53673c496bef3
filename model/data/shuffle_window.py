"""The shuffled sliding window (§4.4): rows are added by file and removed by random draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[Any]


class Window:
    """A set of rows, stored as columns of equal length.

    New rows are appended. After a draw, the last rows fill the gaps that the drawn rows leave. The cost of both
    operations depends on the number of rows that move, not on the number of rows in the window. The memory is at most
    1.5 times that of the largest number of rows that the window has held.
    """

    def __init__(self) -> None:
        self._columns: list[Column] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, *columns: Column) -> None:
        """Append rows, given as columns of equal length."""
        n = len(columns[0])
        if not self._columns or self._size + n > len(self._columns[0]):
            self._grow(self._size + n, columns)
        for column, new in zip(self._columns, columns, strict=True):
            column[self._size : self._size + n] = new
        self._size += n

    def _grow(self, rows: int, like: tuple[Column, ...]) -> None:
        """Make room for at least `rows` rows with the types and shapes of the columns `like`."""
        capacity = max(rows, len(self._columns[0]) * 3 // 2) if self._columns else rows
        grown = [np.empty((capacity, *c.shape[1:]), c.dtype) for c in like]
        for new, old in zip(grown, self._columns, strict=bool(self._columns)):
            new[: self._size] = old[: self._size]
        self._columns = grown

    def draw(self, n: int, random: np.random.Generator) -> list[Column]:
        """Remove random rows from the window.

        Args:
            n: Number of rows; at most the number of rows in the window.
            random: Random generator.

        Returns:
            The columns of the removed rows, each of length `n`.
        """
        assert n <= self._size, "the window has fewer rows than the draw"
        chosen = random.choice(self._size, n, replace=False, shuffle=True)
        drawn = [c[chosen] for c in self._columns]
        self._size -= n
        gaps = chosen[chosen < self._size]
        tail = np.arange(self._size, self._size + n)
        moved = tail[~np.isin(tail, chosen)]
        for c in self._columns:
            c[gaps] = c[moved]
        return drawn

    def list_columns(self) -> list[Column]:
        """Return the columns of all rows in the window, in storage order."""
        return [c[: self._size] for c in self._columns]
