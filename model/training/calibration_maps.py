"""Calibration on the scores of earlier nights: a map of logits for each domain, fitted on out-of-sample predictions.

A model is calibrated on rows that its weights were fitted on (see `calibration`). On the next day, it may still predict
too many or too few clicks, for example because many items are new. Earlier nights show by how much: each model scored a
day that it was not trained on, and the labels of that day are known by now. The night's model is trained in the same
way, so the map that would have calibrated the earlier scores is applied to its logits.

All maps are continuous, strictly increasing, and have a slope within `SLOPES`.

This module must not import torch: the definition of a job contains maps, and commands without training read jobs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy.optimize import isotonic_regression
from scipy.special import expit, logit

from star_ctr.conf.contracts.domains import OTHER_NAME
from star_ctr.conf.settings.base import SettingsModel

Floats = npt.NDArray[np.float64]

SLOPES = (0.5, 2.0)
"""Bounds of the slope of a map."""
HALF_LIFE = 7.0
"""Age at which a night has half of the weight of the newest one, in nights."""
_DAY_DEVIATION = 0.05
"""Standard deviation of the logit of the CTR of a single day, which no model can predict.

It limits the weight of a night with many clicks.
"""
_PRIOR_CLICKS = 50.0
"""Weight of the shifted predictions in a block of the isotonic map, in clicks."""


class LogitMap(SettingsModel):
    """A piecewise linear map of logits: x is mapped to x plus an offset that depends on x.

    Attributes:
        knots: (K,) logits at which the slope changes, ascending; at least one.
        offsets: (K,) offset at each knot.
        slopes: (K + 1,) change of the offset per unit of x: below the first knot, between the knots, above the last.
    """

    knots: list[float] = Field(min_length=1)
    offsets: list[float]
    slopes: list[float]

    def apply(self, x: Floats) -> Floats:
        """Map logits."""
        knots, offsets, slopes = map(np.asarray, (self.knots, self.offsets, self.slopes))
        segment = np.searchsorted(knots, x, side="right")
        anchor = np.maximum(segment - 1, 0)
        mapped: Floats = x + offsets[anchor] + slopes[segment] * (x - knots[anchor])
        return mapped

    def invert(self, y: Floats) -> Floats:
        """Return the logits that are mapped to `y`."""
        knots, offsets, slopes = map(np.asarray, (self.knots, self.offsets, self.slopes))
        segment = np.searchsorted(knots + offsets, y, side="right")
        anchor = np.maximum(segment - 1, 0)
        inverse: Floats = knots[anchor] + (y - knots[anchor] - offsets[anchor]) / (1 + slopes[segment])
        return inverse


class CalibrationMaps(SettingsModel):
    """The maps of a run, and the scores that they were fitted on.

    Attributes:
        method: `bias`, `platt` or `isotonic`.
        nights: The nights with the scores, oldest first.
        rows: The number of scores; with weights, their effective number.
        clicks: The number of their clicks; with weights, scaled like `rows`.
        maps: The map by domain; that of `other` was fitted on all domains and is used for domains without a map.
    """

    method: str
    nights: list[str]
    rows: int
    clicks: int
    maps: dict[str, LogitMap]

    def get_map(self, domain: str) -> LogitMap:
        """Return the map of a domain."""
        return self.maps.get(domain, self.maps[OTHER_NAME])


@dataclass(frozen=True)
class ScoreBins:
    """Bins of the scores of one or more domains.

    Attributes:
        age: (n,) age of the night of each bin; the newest night has age 0.
        logit: (n,) mean logit of the bin, before any map.
        rows: (n,) number of rows.
        clicks: (n,) number of clicks.
    """

    age: Floats
    logit: Floats
    rows: Floats
    clicks: Floats

    def compute_weights(self) -> Floats:
        """Return the weight of each bin, which decreases with its age and with the number of clicks of its night."""
        information = self.rows * expit(self.logit) * expit(-self.logit)
        weight: Floats = np.exp2(-self.age / HALF_LIFE)
        for age in np.unique(self.age):
            night = self.age == age
            weight[night] /= 1 + _DAY_DEVIATION**2 * information[night].sum()
        return weight

    @staticmethod
    def concat(parts: Sequence[ScoreBins]) -> ScoreBins:
        """Concatenate the bins of several domains."""
        columns = ([getattr(p, name) for p in parts] for name in ("age", "logit", "rows", "clicks"))
        return ScoreBins(*(np.concatenate(c) for c in columns))


def fit_maps(method: str, bins: Mapping[str, ScoreBins]) -> dict[str, LogitMap]:
    """Fit the map of each domain.

    `bias` shifts the logits, `platt` also changes their slope, and `isotonic` shifts them and then applies a monotone
    map that all domains share. The parameters of all domains are shrunk toward the identity, and those of a domain
    toward those of all domains (see `_shrink`).

    Args:
        method: `bias`, `platt` or `isotonic`.
        bins: The bins by domain; at least one domain.

    Returns:
        The map by domain, and that of all domains for `other`.
    """
    has_slope = method == "platt"
    shared = _fit_line(ScoreBins.concat(list(bins.values())), (0.0, 0.0), has_slope)
    lines = {domain: _fit_line(found, shared, has_slope) for domain, found in bins.items()} | {OTHER_NAME: shared}
    maps = {
        domain: LogitMap(knots=[0.0], offsets=[shift], slopes=[slope, slope])
        for domain, (shift, slope) in lines.items()
    }
    if method != "isotonic":
        return maps
    shape = _fit_isotonic(bins, maps)
    return {
        # The shape applies to shifted logits, so its knots move by the shift.
        domain: LogitMap(
            knots=[k - shift for k in shape.knots],
            offsets=[o + shift for o in shape.offsets],
            slopes=shape.slopes,
        )
        for domain, (shift, _) in lines.items()
    }


def _fit_line(bins: ScoreBins, center: tuple[float, float], has_slope: bool) -> tuple[float, float]:
    """Fit the offset `shift + slope * logit` of a map.

    Args:
        bins: The bins.
        center: The shift and the slope to shrink toward.
        has_slope: Whether to fit the slope; otherwise, it is that of `center`.

    Returns:
        The shift and the slope.
    """
    parameters = np.array(center)
    if has_slope:
        fitted, errors = _maximize_posterior(bins, parameters, [0, 1])
        slope = center[1] + _shrink(fitted[1] - center[1], errors[1])
        parameters[1] = min(max(slope, SLOPES[0] - 1), SLOPES[1] - 1)
    # The best shift depends on the slope, so it is fitted again.
    fitted, errors = _maximize_posterior(bins, parameters, [0])
    return center[0] + _shrink(fitted[0] - center[0], errors[0]), float(parameters[1])


def _shrink(difference: float, error: float) -> float:
    """Return a difference shrunk toward 0; it becomes 0 unless it is larger than sqrt(2) standard errors."""
    # Most models need no further calibration. Then a difference is noise, and following it makes predictions worse.
    return difference * (1 - 2 * (error / difference) ** 2) if abs(difference) > 2**0.5 * error else 0.0


def _maximize_posterior(bins: ScoreBins, center: Floats, free: list[int]) -> tuple[Floats, Floats]:
    """Maximize the posterior of shift and slope by Newton's method.

    The prior is normal, with a standard deviation of 1. It only matters for domains with very few clicks.

    Args:
        bins: The bins.
        center: The prior means of the shift and the slope.
        free: The indices of the parameters to fit; the others stay at `center`.

    Returns:
        The shift and the slope, and their standard errors.
    """
    weight, x = bins.compute_weights(), bins.logit
    rows, clicks = weight * bins.rows, weight * bins.clicks
    parameters, design = center.copy(), np.stack([np.ones_like(x), x])

    def compute_loss(values: Floats) -> float:
        """Return minus the log posterior."""
        logits = x + values @ design
        loss = rows @ np.logaddexp(0, logits) - clicks @ logits + 0.5 * ((values - center) ** 2).sum()
        return float(loss)

    for _ in range(100):
        p = expit(x + parameters @ design)
        gradient = design @ (rows * p - clicks) + parameters - center
        hessian = ((design * (rows * p * (1 - p))) @ design.T + np.eye(2))[np.ix_(free, free)]
        step = np.linalg.solve(hessian, gradient[free])
        if np.abs(step).max() < 1e-10:
            break
        step, loss = np.clip(step, -1, 1), compute_loss(parameters)
        for _ in range(50):  # halve the step until the loss decreases
            moved = parameters.copy()
            moved[free] -= step
            if compute_loss(moved) < loss:
                break
            step = step / 2
        else:
            break  # the loss cannot decrease further in floating point
        parameters = moved
    errors = np.zeros(2)
    errors[free] = np.sqrt(np.diag(np.linalg.inv(hessian)))
    return parameters, errors


def _fit_isotonic(bins: Mapping[str, ScoreBins], shifts: Mapping[str, LogitMap]) -> LogitMap:
    """Fit a monotone map of the shifted logits of all domains.

    Isotonic regression gives blocks of bins with the same CTR. Each block becomes a knot, at its mean logit, after
    shrinking its CTR toward the prediction. Between the knots the map is linear; beyond them, its offset is constant.

    Args:
        bins: The bins by domain.
        shifts: The map by domain that shifts its logits.

    Returns:
        The map.
    """
    parts = [
        ScoreBins(found.age, shifts[domain].apply(found.logit), found.rows, found.clicks)
        for domain, found in bins.items()
    ]
    merged = ScoreBins.concat(parts)
    # No limit by night: variation of a day's CTR shifts all logits alike, and the shifts have removed this.
    weight = np.exp2(-merged.age / HALF_LIFE)
    x, bin_of = np.unique(merged.logit, return_inverse=True)
    all_rows, clicks = (np.bincount(bin_of, weight * n) for n in (merged.rows, merged.clicks))
    blocks = isotonic_regression(clicks / all_rows, weights=all_rows).blocks
    starts = blocks[:-1]
    rows, clicks, predicted, at = (
        np.add.reduceat(a, starts) for a in (all_rows, clicks, all_rows * expit(x), all_rows * x)
    )  # fmt: skip
    # Shrink by clicks: the CTR of a block with few clicks remains close to the predicted CTR.
    share = (clicks + _PRIOR_CLICKS) / (predicted + _PRIOR_CLICKS)
    knots, ctr = at / rows, np.clip(predicted / rows * share, 1e-7, 1 - 1e-7)
    values = logit(ctr)
    for k in range(1, len(knots)):
        low, high = (values[k - 1] + slope * (knots[k] - knots[k - 1]) for slope in SLOPES)
        values[k] = min(max(values[k], low), high)
    offsets = values - knots
    slopes = [0.0, *(np.diff(offsets) / np.diff(knots)), 0.0]
    shape = LogitMap(knots=knots.tolist(), offsets=offsets.tolist(), slopes=[float(s) for s in slopes])
    # Blocks with few clicks are shrunk and others are not, so the sum of the predictions may have changed. Restore it.
    mapped, total, correction = shape.apply(x), all_rows @ expit(x), 0.0
    for _ in range(20):
        p = expit(mapped + correction)
        step = float((all_rows @ p - total) / max(all_rows @ (p * (1 - p)), 1e-12))
        correction -= min(max(step, -0.5), 0.5)
    return shape.model_copy(update={"offsets": [offset + correction for offset in shape.offsets]})


def describe_maps(maps: CalibrationMaps) -> dict[str, object]:
    """Describe maps for the training record: what they were fitted on, and how much they change a score by domain."""
    typical = {domain: m.apply(np.array([-3.0])).item() + 3.0 for domain, m in sorted(maps.maps.items())}
    assert all(map(math.isfinite, typical.values()))
    return {
        "method": maps.method, "nights": maps.nights, "rows": maps.rows, "clicks": maps.clicks,
        "shifts": {domain: round(value, 6) for domain, value in typical.items()},
    }  # fmt: skip
