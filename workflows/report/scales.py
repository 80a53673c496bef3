"""Scales of the report's charts: from values to positions, and the round values that are marked on an axis."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from star_ctr.workflows.report.formatting import is_missing


@dataclass(frozen=True)
class AxisScale:
    """A linear or logarithmic map from values in [`low`, `high`] to positions from `start` to `end`.

    Attributes:
        low: The lowest value.
        high: The highest value.
        start: The position of `low`, in pixels.
        end: The position of `high`, in pixels.
        log: Whether the scale is logarithmic.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the position of a value; values outside the range are clipped to its bounds."""
        low, high, clipped = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, clipped = math.log(low), math.log(high), math.log(clipped)
        return round(self.start + (clipped - low) / (high - low) * (self.end - self.start), 1)


def fit_scale(values: Iterable[float | None], start: float, end: float, floor: float = 1e-3) -> AxisScale:
    """Return a linear scale that contains all values, with a margin on both sides.

    Args:
        values: The values; missing ones are ignored.
        start: The position of the lowest value.
        end: The position of the highest value.
        floor: The minimum width of the range of values.
    """
    present = [v for v in values if v is not None and not is_missing(v)] or [0.0, 1.0]
    low, high = min(present), max(present)
    margin = max(0.12 * (high - low), floor / 2)
    return AxisScale(low - margin, high + margin, start, end)


_RATIOS = (0.25, 0.33, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 4.0)
"""Values that can be marked on a scale of ratios."""


def fit_ratio_scale(values: Iterable[float | None], start: float, end: float) -> AxisScale:
    """Return a logarithmic scale around 1, limited to the range from 0.25 to 4.

    Args:
        values: The ratios; missing ones are ignored.
        start: The position of the lowest value.
        end: The position of the highest value.
    """
    present = [v for v in values if v is not None and not is_missing(v)]
    low, high = min(present, default=1.0), max(present, default=1.0)
    return AxisScale(max(0.25, min(0.95, low / 1.04)), min(4.0, max(1.05, high * 1.04)), start, end, log=True)


def choose_ticks(scale: AxisScale, least: int = 3) -> list[float]:
    """Choose round values to mark on a scale.

    Args:
        scale: The scale.
        least: The minimum number of values on a linear scale. The step is the largest round number that gives at least
            this many.

    Returns:
        The values in ascending order. On a logarithmic scale: 1, and other ratios with enough distance between them.
    """
    if scale.log:
        chosen = [1.0]
        distance = abs(scale.end - scale.start) / 6
        for ratio in sorted(_RATIOS, key=lambda r: abs(math.log(r))):
            if scale.low <= ratio <= scale.high and all(abs(scale(ratio) - scale(c)) >= distance for c in chosen):
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
    """Return the texts of ticks, with as many decimals as are needed to distinguish them."""
    if len(values) < 2:
        return [f"{v:g}" for v in values]
    step = min(b - a for a, b in zip(values, values[1:], strict=False))
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{v:,.{digits}f}" for v in values]
