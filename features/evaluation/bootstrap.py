"""AUC and GAUC with their bootstrap over users: replicates, percentile intervals, and paired differences of two runs.

Two sorted passes over the scores make sums, a few numbers for each task, run, domain and replicate; they add up to the
metrics of the data and of every replicate. The draws of users are those of `resampling`, so that all runs share them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DoubleType, StructField, StructType

from star_ctr.conf.settings.root import EvaluateSettings
from star_ctr.features.evaluation import poisson_bootstrap
from star_ctr.features.evaluation.grouped_sums import Names, collect_names
from star_ctr.features.evaluation.poisson_bootstrap import Ints
from star_ctr.features.evaluation.ranked_auc import sum_ranks
from star_ctr.features.evaluation.user_auc import sum_users

GROUP = ["run_id", "domain"]
ALL = ("auc_all", "gauc_all")
INTERVALS = ("auc_low", "auc_high", "gauc_low", "gauc_high")
EVIDENCE = ("gauc_std", "gauc_effective")
_AUC = "run_id string, domain string, auc_all array<double>"
_GAUC = (
    "run_id string, domain string, users long, gauc_users long, gauc_rows long, gauc_effective double, "
    "gauc_all array<double>"
)


def estimate(scores: DataFrame, evaluate: EvaluateSettings) -> DataFrame:
    """For each run and domain, and `overall`: `estimate_auc` and `estimate_gauc` below.

    `scores`: run_id, user_id, domain, label (0.0 or 1.0), score in [0, 1].
    """
    names = collect_names(scores)
    return estimate_auc(scores, evaluate, names).join(estimate_gauc(scores, evaluate, names), GROUP)


def estimate_auc(scores: DataFrame, evaluate: EvaluateSettings, names: Names | None = None) -> DataFrame:
    """auc_all: AUC of the data, then of each replicate; NaN for one class."""

    def combine(table: pa.Table) -> pa.Table:
        # Ranges of the score in their order: the positives of each win against all negatives of those before.
        table = table.sort_by("lowest")
        positive, negative, wins = (_stack(table[name]) for name in ("positive", "negative", "wins"))
        below = np.cumsum(negative, axis=0) - negative
        whole = (wins + 2 * positive * below).sum(axis=0)
        found = poisson_bootstrap.compute_auc(positive.sum(axis=0), negative.sum(axis=0), whole)
        return _pack_row(table, auc_all=pa.array([found]))

    sums = sum_ranks(scores, names or collect_names(scores), evaluate.replicates, evaluate.seed)
    return sums.groupBy(*GROUP).applyInArrow(combine, _AUC)


def estimate_gauc(scores: DataFrame, evaluate: EvaluateSettings, names: Names | None = None) -> DataFrame:
    """gauc_all: eq. 9 of the data, then of each replicate; NaN where no user has both classes.

    Also returns `users`, and, null if there are none, `gauc_users` and `gauc_rows`: the users with both classes and
    their rows; `gauc_effective`: their effective number, (sum n)^2 / sum n^2.
    """

    def combine(table: pa.Table) -> pa.Table:
        rows, whole, part = (_stack(table[name]).sum(axis=0) for name in ("gauc_rows", "auc_whole", "auc_part"))
        users, both, squares = (int(table[n].to_numpy().sum()) for n in ("users", "gauc_users", "gauc_squares"))
        found = pa.array([poisson_bootstrap.compute_gauc(rows, whole, part)])
        counts = {"users": users, "gauc_users": both or None, "gauc_rows": int(rows[0]) or None}
        effective = pa.array([int(rows[0]) ** 2 / squares if squares else None], pa.float64())
        integers = {k: pa.array([n], pa.int64()) for k, n in counts.items()}
        return _pack_row(table, **integers, gauc_effective=effective, gauc_all=found)

    sums = sum_users(scores, names or collect_names(scores), evaluate.replicates, evaluate.seed)
    return sums.groupBy(*GROUP).applyInArrow(combine, _GAUC)


def subtract_estimates(estimated: DataFrame, run_id: str, against: str) -> DataFrame:
    """Return auc_all and gauc_all of `run_id` minus those of `against`, by domain; and gauc_effective."""
    ours, theirs = (
        estimated.where(F.col("run_id") == run).select("domain", *(F.col(c).alias(f"{c}{mark}") for c in ALL), *more)
        for run, mark, more in ((run_id, "", ("gauc_effective",)), (against, "_other", ()))
    )
    less = [F.zip_with(c, f"{c}_other", lambda x, y: x - y).alias(c) for c in ALL]
    return ours.join(theirs, "domain").select("domain", "gauc_effective", *less)


def add_intervals(estimated: DataFrame, level: float) -> DataFrame:
    """Convert `auc_all` and `gauc_all` to auc, gauc, INTERVALS and gauc_std; null where undefined."""
    kept = [f for f in estimated.schema.fields if f.name not in ALL]
    names = ("auc", "gauc", *INTERVALS, "auc_std", "gauc_std")

    def summarise(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            of: dict[str, list[float | None]] = {name: [] for name in names}
            for name in ("auc", "gauc"):
                for values in batch.column(f"{name}_all"):
                    all_ = values.values.to_numpy()
                    of[name].append(None if np.isnan(all_[0]) else float(all_[0]))
                    for bound, x in zip(
                        ("low", "high"), poisson_bootstrap.compute_interval(all_[1:], level), strict=True
                    ):
                        of[f"{name}_{bound}"].append(x)
                    of[f"{name}_std"].append(poisson_bootstrap.compute_deviation(all_[1:], level))
            columns = [batch.column(f.name) for f in kept] + [pa.array(of[name], pa.float64()) for name in names]
            yield pa.RecordBatch.from_arrays(columns, names=[*(f.name for f in kept), *names])

    fields = [*kept, *(StructField(name, DoubleType()) for name in names)]
    return estimated.mapInArrow(summarise, StructType(fields))


def _stack(lists: pa.ChunkedArray) -> Ints:
    """Lists of one length as rows."""
    return np.stack(lists.to_numpy())


def _pack_row(table: pa.Table, **columns: pa.Array) -> pa.Table:
    """The group of `table` with some columns, in one row."""
    return pa.table({**{name: table[name][:1] for name in GROUP}, **columns})
