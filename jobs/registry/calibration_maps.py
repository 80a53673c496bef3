"""Fit the calibration maps of a run on the test scores of earlier nights (see `model.training.calibration_maps`)."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping, Sequence

import numpy as np
from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from star_ctr.conf.contracts.dates import list_calibration_nights
from star_ctr.conf.contracts.run_id import hash_label_settings, make_run_id
from star_ctr.conf.settings.label import LabelFromClicks
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.day_records import DayRecords
from star_ctr.jobs.io.delta_rows import make_any_condition, read_rows
from star_ctr.jobs.io.label_records import LABEL_SETTINGS, WEIGHT
from star_ctr.jobs.io.label_records import PART as LABELS
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.registry.attempts import Attempt, find_attempt, read_job
from star_ctr.model.score_checks import is_within_tolerance
from star_ctr.model.training.calibration_maps import CalibrationMaps, Floats, ScoreBins, fit_maps

_logger = logging.getLogger(__name__)
_LEAST_SCORE = 1e-7
"""Scores are clipped to [_LEAST_SCORE, 1 - _LEAST_SCORE], because the logit of 0 is infinite."""
_BINS_PER_UNIT = 4
"""Number of bins per unit of the logit."""


def fit_calibration_maps(
    settings: Settings,
    store: WarehouseTables,
    ds: str,
    is_refit: bool = False,
    earlier: Mapping[str, str] | None = None,
) -> CalibrationMaps | None:
    """Fit the calibration maps of a run on the scores of earlier runs with the same settings and seed.

    Args:
        settings: The settings of the data set.
        store: The tables.
        ds: The night of the run.
        is_refit: Whether the run is a refit.
        earlier: The night of each earlier run, by run id; by default, the runs of the nights that
            `list_calibration_nights` returns.

    Returns:
        The maps; None if there are no such scores, or `trainer.calibration.method` is `none`.
    """
    if earlier is None:
        earlier = {make_run_id(settings, n): n for n in list_calibration_nights(settings, ds, is_refit)}
    runs = _select_runs(settings, store, earlier)
    nights = [*runs.values()]
    if not runs or not store.exists("scores"):
        return None
    scores = _label(settings, store, store.read("scores").where(F.col("run_id").isin([*runs])), nights)
    score = F.greatest(F.least("score", F.lit(1 - _LEAST_SCORE)), F.lit(_LEAST_SCORE))
    logit = F.log(score) - F.log1p(-score)
    counts = scores.groupBy("run_id", "attempt", "domain", F.floor(logit * _BINS_PER_UNIT).alias("bin")).agg(
        *_list_sums(scores, logit)
    )
    found = sorted((row for row in counts.collect() if row.rows), key=lambda r: (r.run_id, r.domain, r.bin))
    attempts = _find_attempts(store, found)
    # Rows of domains that are not trained on are scored like those of unknown domains, with the map of `other`.
    is_selected = settings.trainer.data.is_selected
    found = [row for row in found if (row.run_id, row.attempt) in attempts and is_selected(row.domain)]
    # Scaled so that the weights sum to the effective number of rows (Kish).
    scale = sum(r.rows for r in found) / sum(r.squares for r in found) if found and "weight" in scores.columns else 1.0
    bins = _make_bins(attempts, found, runs, max(nights), scale)
    if not bins:
        return None
    used = sorted({runs[row.run_id] for row in found})
    maps = fit_maps(settings.trainer.calibration.method, bins)
    rows, clicks = (int(sum(getattr(b, name).sum() for b in bins.values())) for name in ("rows", "clicks"))
    _logger.info("calibrated on %s scores of the nights %s", f"{rows:,}", ", ".join(used))
    return CalibrationMaps(method=settings.trainer.calibration.method, nights=used, rows=rows, clicks=clicks, maps=maps)


def _select_runs(settings: Settings, store: WarehouseTables, runs: Mapping[str, str]) -> dict[str, str]:
    """Return the runs whose labels have the definition of the settings, and whose scores passed their checks.

    Args:
        settings: The settings of the data set.
        store: The tables.
        runs: The night of each run, by run id.

    Returns:
        The selected runs, in the order of `runs`.
    """
    # Another YAML file may have written the labels of days outside the window of this night. Scores are written before
    # they are checked; only the difference from the trainer's scores in `runs` tells that all checks passed.
    if not runs or not store.exists("runs"):
        return {}
    records = DayRecords(settings).read(LABELS)
    definition, weight = hash_label_settings(settings), settings.logs.impressions.weight
    passed: dict[str, bool] = {}
    where = make_any_condition("run_id", [*runs])
    rows = read_rows(store.warehouse.table("runs"), where, ["run_id", "attempt", "max_score_difference"])
    for row in sorted(rows, key=lambda row: row["attempt"]):
        difference = row["max_score_difference"]
        passed[row["run_id"]] = difference is not None and is_within_tolerance(difference)
    selected = {}
    for run_id, night in runs.items():
        if not passed.get(run_id):
            continue  # not trained or not scored
        found = records[night].outputs if night in records else {}
        if found.get(LABEL_SETTINGS) == definition and found.get(WEIGHT) == weight:
            selected[run_id] = night
        else:
            _logger.warning("the labels of %s have other settings, so its scores are not used for calibration", night)
    return selected


def _label(settings: Settings, store: WarehouseTables, scores: DataFrame, nights: Sequence[str]) -> DataFrame:
    """Replace the labels of scores by the final ones, and add any weights; drop rows with open labels or weight 0."""
    weights = ["weight"] if settings.logs.impressions.weight else []
    if not isinstance(settings.label, LabelFromClicks) and not weights:
        return scores
    labels = store.read("labels").where(F.col("ds").isin([*nights]) & F.col("is_final"))
    labels = labels.where(F.col("weight") > 0) if weights else labels
    return scores.drop("label").join(labels.select("ds", "impression_id", "label", *weights), ["ds", "impression_id"])


def _list_sums(scores: DataFrame, logit: Column) -> list[Column]:
    """Return the sums of rows, clicks and logits in a bin; if there are weights, weighted, and with squared weights."""

    # Decimals, so that a sum does not depend on the order of the rows.
    def add_up(value: Column, name: str) -> Column:
        return F.sum(value.cast("decimal(20, 12)")).cast("double").alias(name)

    if "weight" not in scores.columns:
        clicks = F.sum(F.col("label").cast("long")).alias("clicks")
        return [F.count("*").alias("rows"), clicks, add_up(logit, "logits")]
    # Relative to the largest weight, because decimals have a limited range.
    weight = F.col("weight") / F.lit(scores.agg(F.max("weight")).first()[0])  # type: ignore[index]
    values = {"rows": weight, "clicks": weight * F.col("label"), "logits": weight * logit, "squares": weight * weight}
    return [add_up(value, name) for name, value in values.items()]


def _find_attempts(store: WarehouseTables, counts: Sequence[Row]) -> dict[tuple[str, int | None], Attempt]:
    """Return the attempts of scores by run and number, without those that were deleted."""
    attempts = {}
    for run_id, number in sorted({(row.run_id, row.attempt) for row in counts}):
        attempt = find_attempt(store.warehouse, run_id, number)
        if attempt is None:
            _logger.warning("%s: attempt %s was deleted, so its scores are not used for calibration", run_id, number)
        else:
            attempts[run_id, number] = attempt
    return attempts


def _make_bins(
    attempts: Mapping[tuple[str, int | None], Attempt],
    counts: Sequence[Row],
    runs: Mapping[str, str],
    newest: str,
    scale: float,
) -> dict[str, ScoreBins]:
    """Return the bins of each domain, with logits before the maps of their runs, and counts multiplied by `scale`."""
    parts: dict[str, list[ScoreBins]] = {}
    for (run_id, number), attempt in attempts.items():
        maps = read_job(attempt).calibration_maps
        age = (dt.date.fromisoformat(newest) - dt.date.fromisoformat(runs[run_id])).days
        by_domain: dict[str, list[Row]] = {}
        for row in counts:
            if (row.run_id, row.attempt) == (run_id, number):
                by_domain.setdefault(row.domain, []).append(row)
        for domain, rows in by_domain.items():
            size, clicks, logits = (_to_array(rows, name) for name in ("rows", "clicks", "logits"))
            mean = logits / size
            base = maps.get_map(domain).invert(mean) if maps else mean
            ages = np.full(len(rows), float(age))
            parts.setdefault(domain, []).append(ScoreBins(ages, base, size * scale, clicks * scale))
    return {domain: ScoreBins.concat(found) for domain, found in sorted(parts.items())}


def _to_array(rows: Sequence[Row], name: str) -> Floats:
    return np.array([row[name] for row in rows], np.float64)
