"""Metrics of runs on parts of their test rows, with bootstrap samples over users.

A part is a domain, or all domains except one. The bootstrap weights of users are the same for all runs, so that runs
can be compared in pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pyspark.sql import functions as F

from star_ctr.conf.settings.evaluate import EvaluateSettings
from star_ctr.features.evaluation.bootstrap import GROUP, estimate_auc, estimate_gauc, estimate_log_loss
from star_ctr.features.evaluation.grouped_sums import collect_names
from star_ctr.features.evaluation.poisson_bootstrap import Floats
from star_ctr.jobs.io.warehouse import WarehouseTables

METRICS = ("gauc", "auc", "log_loss")
RUNS_PER_QUERY = 48
"""Number of runs whose metrics are computed together. Their sums must fit in the memory of each task."""


class RowSubset(NamedTuple):
    """A part of the test rows: those of a domain, or those of all domains except it."""

    domain: str
    is_rest: bool = False


class RunEstimate(NamedTuple):
    """The metrics of a run on a part of its test rows.

    Attributes:
        samples: Each of METRICS in the data, followed by the metric in each bootstrap sample, (C,); NaN if undefined.
        users: Number of users.
        gauc_users: Effective number of the users with both classes, from which GAUC is computed.
    """

    samples: dict[str, Floats]
    users: int
    gauc_users: float


def run(
    store: WarehouseTables, evaluate: EvaluateSettings, parts: Sequence[tuple[str, RowSubset]]
) -> dict[tuple[str, RowSubset], RunEstimate]:
    """Compute the metrics of runs from the table `scores`.

    Args:
        store: The tables of the warehouse.
        evaluate: The number of bootstrap samples and their seed.
        parts: Pairs of a run id and a part of its test rows.

    Returns:
        The metrics of each pair whose part has rows.
    """
    runs = list(dict.fromkeys(run_id for run_id, _ in parts))
    found: dict[tuple[str, RowSubset], RunEstimate] = {}
    for start in range(0, len(runs), RUNS_PER_QUERY):
        some = set(runs[start : start + RUNS_PER_QUERY])
        found |= _estimate(store, evaluate, [part for part in parts if part[0] in some])
    return found


def _estimate(
    store: WarehouseTables, evaluate: EvaluateSettings, pairs: Sequence[tuple[str, RowSubset]]
) -> dict[tuple[str, RowSubset], RunEstimate]:
    scores = store.read("scores").where(F.col("run_id").isin(sorted({run_id for run_id, _ in pairs})))
    domains = [row.domain for row in scores.select("domain").distinct().collect()]
    # A row belongs to several parts. Their positions replace the domain, so that each part is evaluated like a domain.
    parts = list(dict.fromkeys(part for _, part in pairs))
    positions = {part: str(k) for k, part in enumerate(parts)}
    members = [
        (run_id, domain, positions[part])
        for run_id, part in pairs
        for domain in domains
        if (domain == part.domain) != part.is_rest
    ]
    if not members:
        return {}
    table = store.spark.createDataFrame(members, "run_id string, domain string, part string")
    rows = scores.join(F.broadcast(table), GROUP).select(
        "run_id", "user_id", F.col("part").alias("domain"), "label", "score"
    )
    rows = rows.persist()
    try:
        names = collect_names(rows)
        auc, gauc, log_loss = (
            compute(rows, evaluate, names) for compute in (estimate_auc, estimate_gauc, estimate_log_loss)
        )
        estimated = auc.join(gauc, GROUP).join(log_loss, GROUP)
        # Leave out the metrics over all parts together.
        collected = estimated.where(F.col("domain").isin(list(positions.values()))).collect()
    finally:
        rows.unpersist()
    return {
        (row.run_id, parts[int(row.domain)]): RunEstimate(
            {metric: np.array(row[f"{metric}_all"]) for metric in METRICS}, row.users, row.gauc_effective or 0.0
        )
        for row in collected
    }
