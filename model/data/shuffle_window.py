"""The shuffled sliding window (§4.4): rows come in by files and go out by random draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[Any]


class Window:
    """Rows as columns of equal length; what comes in goes to the end, and rows from the end fill the holes of a draw.

    Both cost by the rows that move and not by those that are held; the memory is at most half as large again as the
    largest number of rows that were ever held.
    """

    def __init__(self) -> None:
        self._columns: list[Column] = []
        self._held = 0

    def __len__(self) -> int:
        return self._held

    def add(self, *columns: Column) -> None:
        """Put rows in."""
        n = len(columns[0])
        if not self._columns or self._held + n > len(self._columns[0]):
            self._grow(self._held + n, columns)
        for mine, new in zip(self._columns, columns, strict=True):
            mine[self._held : self._held + n] = new
        self._held += n

    def _grow(self, rows: int, like: tuple[Column, ...]) -> None:
        room = max(rows, len(self._columns[0]) * 3 // 2) if self._columns else rows
        grown = [np.empty((room, *c.shape[1:]), c.dtype) for c in like]
        for new, old in zip(grown, self._columns, strict=bool(self._columns)):
            new[: self._held] = old[: self._held]
        self._columns = grown

    def draw(self, n: int, random: np.random.Generator) -> list[Column]:
        """Take `n` random rows out."""
        assert n <= self._held, "drawn more rows than the window holds"
        chosen = random.choice(self._held, n, replace=False, shuffle=True)
        drawn = [c[chosen] for c in self._columns]
        self._held -= n
        holes = chosen[chosen < self._held]
        tail = np.arange(self._held, self._held + n)
        movers = tail[~np.isin(tail, chosen)]
        for c in self._columns:
            c[holes] = c[movers]
        return drawn

    def held(self) -> list[Column]:
        """The rows that are in it, in their places."""
        return [c[: self._held] for c in self._columns]
