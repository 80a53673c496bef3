"""Scales of the morning page's charts: where a value stands, and which round values are written beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from star_ctr.workflows.report.formatting import is_missing


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` onto places from `start` to `end`, evenly, or their logarithms."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value; one outside of the range stands at its border."""
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return round(self.start + (at - low) / (high - low) * (self.end - self.start), 1)


def fit_scale(values: Iterable[float | None], start: float, end: float, floor: float = 1e-3) -> Scale:
    """A scale that all values fit into, with a little air; at least `floor` wide."""
    found = [v for v in values if v is not None and not is_missing(v)] or [0.0, 1.0]
    low, high = min(found), max(found)
    air = max(0.12 * (high - low), floor / 2)
    return Scale(low - air, high + air, start, end)


_RATIOS = (0.25, 0.33, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 4.0)


def fit_ratio_scale(values: Iterable[float | None], start: float, end: float) -> Scale:
    """A logarithmic scale around 1, at most from a quarter to four times."""
    found = [v for v in values if v is not None and not is_missing(v)]
    low, high = min(found, default=1.0), max(found, default=1.0)
    return Scale(max(0.25, min(0.95, low / 1.04)), min(4.0, max(1.05, high * 1.04)), start, end, log=True)


def choose_ticks(scale: Scale, least: int = 3) -> list[float]:
    """Round values within a scale: the fewest that are at least so many; of ratios, 1 and others well apart."""
    if scale.log:
        chosen = [1.0]
        apart = abs(scale.end - scale.start) / 6
        for ratio in sorted(_RATIOS, key=lambda r: abs(math.log(r))):
            if scale.low <= ratio <= scale.high and all(abs(scale(ratio) - scale(c)) >= apart for c in chosen):
                chosen.append(ratio)
        return sorted(chosen)
    power = 10 ** math.ceil(math.log10(scale.high - scale.low))
    for part in (1, 0.5, 0.2, 0.1, 0.05, 0.02):
        step = part * power
        first, last = math.ceil(scale.low / step - 1e-9), math.floor(scale.high / step + 1e-9)
        if last - first + 1 >= least:
            break
    return [k * step for k in range(first, last + 1)]


def format_ticks(values: list[float]) -> list[str]:
    """Ticks as text, with as many digits as tell them apart."""
    if len(values) < 2:
        return [f"{v:g}" for v in values]
    step = min(b - a for a, b in zip(values, values[1:], strict=False))
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{v:,.{digits}f}" for v in values]
