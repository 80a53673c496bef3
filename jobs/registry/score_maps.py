"""Fit of the score maps of a run on the scores that earlier nights gave to their test days (see `model.training`)."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Sequence

import numpy as np
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from star_ctr.conf.contracts.dates import list_calibration_nights
from star_ctr.conf.contracts.run_id import make_run_id
from star_ctr.conf.settings.label import LabelFromClicks
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.registry.attempts import find_attempt, read_job
from star_ctr.model.training.score_maps import Floats, ScoreBins, ScoreMaps, fit_maps

_logger = logging.getLogger(__name__)
_LEAST_SCORE = 1e-7
"""Scores are clipped to [_LEAST_SCORE, 1 - _LEAST_SCORE], because the logit of 0 is infinite."""
_BINS_PER_UNIT = 4
"""Number of bins per unit of the logit."""


def fit_score_maps(settings: Settings, store: WarehouseTables, ds: str, is_refit: bool = False) -> ScoreMaps | None:
    """Fit the score maps of a run on the scores of earlier runs with the same settings and seed.

    Args:
        settings: The settings of the data set.
        store: The tables.
        ds: The night of the run.
        is_refit: Whether the run is a refit.

    Returns:
        The maps; None if there are no such scores, or `trainer.calibration.earlier_scores` is `none`.
    """
    nights = list_calibration_nights(settings, ds, is_refit)
    runs = {make_run_id(settings, night): night for night in nights}
    if not runs or not store.exists("scores"):
        return None
    scores = _label(settings, store, store.read("scores").where(F.col("run_id").isin([*runs])), nights)
    score = F.greatest(F.least("score", F.lit(1 - _LEAST_SCORE)), F.lit(_LEAST_SCORE))
    logit = F.log(score) - F.log1p(-score)
    counts = scores.groupBy("run_id", "attempt", "domain", F.floor(logit * _BINS_PER_UNIT).alias("bin")).agg(
        F.count("*").alias("rows"),
        F.sum(F.col("label").cast("long")).alias("clicks"),
        # Decimals, so that the sum does not depend on the order of the rows.
        F.sum(logit.cast("decimal(20, 12)")).cast("double").alias("logits"),
    )
    found = sorted(counts.collect(), key=lambda r: (r.run_id, r.domain, r.bin))
    bins = _make_bins(store, found, runs, max(nights))
    if not bins:
        return None
    used = sorted({runs[row.run_id] for row in found})
    maps = fit_maps(settings.trainer.calibration.earlier_scores, bins)
    rows, clicks = (int(sum(getattr(b, name).sum() for b in bins.values())) for name in ("rows", "clicks"))
    _logger.info("calibrated on %s scores of the nights %s", f"{rows:,}", ", ".join(used))
    return ScoreMaps(
        method=settings.trainer.calibration.earlier_scores, nights=used, rows=rows, clicks=clicks, maps=maps
    )


def _label(settings: Settings, store: WarehouseTables, scores: DataFrame, nights: Sequence[str]) -> DataFrame:
    """Replace the labels of scores by the final ones; rows whose label is not final are left out."""
    if not isinstance(settings.label, LabelFromClicks):
        return scores
    labels = store.read("labels").where(F.col("ds").isin([*nights]) & F.col("is_final"))
    return scores.drop("label").join(labels.select("ds", "impression_id", "label"), ["ds", "impression_id"])


def _make_bins(
    store: WarehouseTables, counts: Sequence[Row], runs: dict[str, str], newest: str
) -> dict[str, ScoreBins]:
    """Return the bins of each domain, with the logits before the maps of their runs."""
    parts: dict[str, list[ScoreBins]] = {}
    for run_id, number in sorted({(row.run_id, row.attempt) for row in counts}):
        attempt = find_attempt(store.warehouse, run_id, number)
        if attempt is None:
            _logger.warning("%s: attempt %s was deleted, so its scores are not used for calibration", run_id, number)
            continue
        maps = read_job(attempt).score_maps
        age = (dt.date.fromisoformat(newest) - dt.date.fromisoformat(runs[run_id])).days
        by_domain: dict[str, list[Row]] = {}
        for row in counts:
            if (row.run_id, row.attempt) == (run_id, number):
                by_domain.setdefault(row.domain, []).append(row)
        for domain, rows in by_domain.items():
            size, clicks, logits = (_to_array(rows, name) for name in ("rows", "clicks", "logits"))
            mean = logits / size
            base = maps.get_map(domain).invert(mean) if maps else mean
            parts.setdefault(domain, []).append(ScoreBins(np.full(len(rows), float(age)), base, size, clicks))
    return {domain: ScoreBins.concat(found) for domain, found in sorted(parts.items())}


def _to_array(rows: Sequence[Row], name: str) -> Floats:
    return np.array([row[name] for row in rows], np.float64)
