"""Explain: permutation importance of the features of a run.

The importance of a feature is what the metrics lose if its values are exchanged at random among the test rows of a
domain. Then the feature says nothing about its row, but its distribution stays the same. All values that are encoded
from a feature are exchanged together. The same is done for groups of features: two features that say the same are
unimportant on their own, but important together.

Intervals come from a bootstrap over users. The permuted scores and the original ones are compared in pairs.

    spark-submit --packages io.delta:delta-spark_2.13:4.0.1 jobs/tools/explain.py --conf conf/kuairand.yaml
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from scipy.stats import norm

from star_ctr.conf.contracts.dates import check_day
from star_ctr.conf.contracts.domains import OVERALL, domain_sort_key
from star_ctr.conf.contracts.run_id import make_run_id
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.evaluate import EvaluateSettings
from star_ctr.conf.settings.root import Settings
from star_ctr.features.evaluation.bootstrap import estimate
from star_ctr.features.evaluation.loss_sums import compute_row_losses
from star_ctr.features.evaluation.poisson_bootstrap import compute_interval
from star_ctr.jobs.io.session import run_submitted
from star_ctr.jobs.io.warehouse import WarehouseTables, quote_spark_literal
from star_ctr.jobs.registry.attempts import Attempt
from star_ctr.jobs.registry.models import find_scoring_model
from star_ctr.jobs.registry.predictor_cache import describe_model, load_predictor
from star_ctr.jobs.tools.encoded_features import RowPart, list_parts
from star_ctr.model.data.reader import unpack_columns

ROWS = 50_000
"""Default number of test rows. All of them are scored once per feature."""
METRICS = ("gauc", "auc", "log_loss")
_ORIGINAL = "original"
_SCHEMA = "run_id string, user_id string, domain string, label double, score double, loss double"
IMPORTANCE_SCHEMA = pa.schema(
    [
        ("run_id", pa.string()),
        ("attempt", pa.int64()),
        *((name, pa.string()) for name in ("ds", "kind", "name", "domain")),
        ("rows", pa.int64()),
        *((f"{metric}{suffix}", pa.float64()) for metric in METRICS for suffix in ("", "_low", "_high")),
    ]
)
"""Schema of `importance`."""


def run(
    settings: Settings, spark: SparkSession, ds: str | None = None, run_id: str | None = None, rows: int = ROWS
) -> list[dict[str, Any]]:
    """Compute the importance of the features of a run on its test rows, and write it to `importance`.

    Args:
        settings: The settings of the data set; `evaluate` configures the intervals.
        spark: The Spark session.
        ds: The night of the run; by default the newest day of `split`.
        run_id: The run; by default that of the night with these settings.
        rows: The approximate number of test rows, which are those of a sample of users.

    Returns:
        The written rows, by domain (`overall` last) and descending loss of GAUC.

    Raises:
        DataError: The test rows of the run no longer exist, or a file of the model is damaged.
        UserError: The run is not finished.
    """
    store = WarehouseTables(settings, spark)
    if run_id is None:
        run_id = make_run_id(settings, check_day(ds) if ds else store.get_newest_day("split"))
    model = find_scoring_model(settings, run_id)
    record = model.attempt.record()
    split = store.read("split", record["versions"]["split"])
    test = _sample_users(split.where((F.col("ds") == record["ds"]) & (F.col("part") == "test")), rows)
    parts = list_parts(record["settings"]["features"], model.layout)
    scores = score_permuted_rows(test, model.attempt, parts).persist()
    try:
        found = _compute_importance(scores, parts, settings.evaluate)
    finally:
        scores.unpersist()
    if not found:
        raise DataError(f"{store.warehouse.table('split')}: no test rows of {record['ds']}; run the night again")
    written = [{"run_id": run_id, "attempt": model.attempt.number, "ds": record["ds"], **row} for row in found]
    values = [tuple(row[name] for name in IMPORTANCE_SCHEMA.names) for row in written]
    store.replace_rows("importance", values, IMPORTANCE_SCHEMA, f"run_id = {quote_spark_literal(run_id)}")
    return written


def _sample_users(rows: DataFrame, wanted: int) -> DataFrame:
    """Return the rows of a sample of users, about `wanted` rows."""
    total = rows.count()
    if total <= wanted:
        return rows
    return rows.where(F.pmod(F.xxhash64("user_id"), F.lit(1_000_000)) < int(1_000_000 * wanted / total))


def score_permuted_rows(rows: DataFrame, attempt: Attempt, parts: Sequence[RowPart]) -> DataFrame:
    """Score rows once as they are, and once per part with the part exchanged among the rows of a domain.

    Args:
        rows: Encoded rows, as in `split`.
        attempt: The attempt, whose layout must be that of the rows.
        parts: The parts.

    Returns:
        Rows with the position of the part as `run_id`, `original` for unchanged rows, `user_id`, `domain`, `label`,
        `score`, and `loss`: the log loss minus that of the unchanged row.
    """
    model = describe_model(rows.sparkSession, attempt)
    names = [_ORIGINAL, *map(str, range(len(parts)))]

    def score(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        predictor = load_predictor(model)
        for batch in batches:
            if batch.num_rows == 0:
                continue
            ints, floats = unpack_columns(batch.column("ints"), batch.column("floats"), predictor.layout)
            domains = batch.column("domain_id").to_numpy().astype(np.int32)
            label = batch.column("label").cast(pa.float64()).to_numpy()
            seed = zlib.crc32(str(batch.column("impression_id")[0]).encode())
            original = predictor.predict(ints, floats, domains).astype(np.float64)
            loss = compute_row_losses(original, label > 0)
            for k, name in enumerate(names):
                scores = original
                if k:
                    order = permute_in_domains(domains, np.random.default_rng([seed, k]))
                    changed = exchange(parts[k - 1], ints, floats, order)
                    scores = predictor.predict(*changed, domains).astype(np.float64)
                yield pa.RecordBatch.from_arrays(
                    [
                        pa.array([name] * batch.num_rows),
                        *(batch.column(column) for column in ("user_id", "domain")),
                        pa.array(label),
                        pa.array(scores),
                        pa.array(compute_row_losses(scores, label > 0) - loss),
                    ],
                    names=["run_id", "user_id", "domain", "label", "score", "loss"],
                )

    # The rows of the split are in random order, so a batch is a random sample of its domains.
    columns = ("impression_id", "user_id", "domain", "domain_id", "label", "ints", "floats")
    return rows.select(*columns).mapInArrow(score, _SCHEMA)


def permute_in_domains(domains: npt.NDArray[np.int32], random: np.random.Generator) -> npt.NDArray[np.intp]:
    """Return a random order of rows in which each position has a row of the same domain.

    Args:
        domains: Domain numbers of the rows, shape (n,).
        random: The source of the order.

    Returns:
        The position of the row that takes each place, shape (n,).
    """
    places = np.argsort(domains, kind="stable")
    shuffled = np.lexsort((random.random(len(domains)), domains))
    order = np.empty(len(domains), dtype=np.intp)
    order[places] = shuffled
    return order


def exchange(
    part: RowPart, ints: npt.NDArray[np.int32], floats: npt.NDArray[np.float32], order: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Return rows in which a part is that of other rows.

    Args:
        part: The part.
        ints: Integers of the rows, shape (n, `Layout.int_count`).
        floats: Numbers of the rows, shape (n, `Layout.float_count`).
        order: The row that the part of each row is taken from, shape (n,).

    Returns:
        Copies of `ints` and `floats`.
    """
    ints, floats = ints.copy(), floats.copy()
    for values, positions in ((ints, list(part.ints)), (floats, list(part.floats))):
        values[:, positions] = values[:, positions][order]
    return ints, floats


def _compute_importance(
    scores: DataFrame, parts: Sequence[RowPart], evaluate: EvaluateSettings
) -> list[dict[str, Any]]:
    """Return the losses of each part by domain, with their intervals."""
    estimates = {(r.run_id, r.domain): r for r in estimate(scores, evaluate).collect()}
    losses = _compute_log_losses(scores, evaluate.level)
    found = []
    for (run_id, domain), row in estimates.items():
        if run_id == _ORIGINAL:
            continue
        part, original = parts[int(run_id)], estimates[_ORIGINAL, domain]
        values: dict[str, Any] = {"kind": part.kind, "name": part.name, "domain": domain}
        for metric in ("gauc", "auc"):
            lost = np.array(original[f"{metric}_all"]) - np.array(row[f"{metric}_all"])
            low, high = compute_interval(lost[1:], evaluate.level)
            first = None if math.isnan(lost[0]) else float(lost[0])
            values |= {metric: first, f"{metric}_low": low, f"{metric}_high": high}
        found.append(values | losses[run_id, domain])

    def sort_key(row: dict[str, Any]) -> tuple[Any, ...]:
        lost = row["gauc"] if row["gauc"] is not None else row["log_loss"]
        return (domain_sort_key(row["domain"]), row["kind"], -lost, row["name"])

    return sorted(found, key=sort_key)


def _compute_log_losses(scores: DataFrame, level: float) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the mean increase of the log loss by part and domain, with an interval that treats users as clusters."""
    both = scores.unionByName(scores.withColumn("domain", F.lit(OVERALL)))
    by_user = both.groupBy("run_id", "domain", "user_id").agg(F.sum("loss").alias("loss"), F.count("*").alias("rows"))

    loss, rows = F.col("loss"), F.col("rows")
    products = {"loss": loss, "rows": rows, "ll": loss * loss, "lr": loss * rows, "rr": rows * rows}
    sums = by_user.groupBy("run_id", "domain").agg(*(F.sum(value).alias(name) for name, value in products.items()))
    z = float(norm.ppf((1 + level) / 2))
    found = {}
    for r in sums.collect():
        mean = r.loss / r.rows
        std = math.sqrt(max(r.ll - 2 * mean * r.lr + mean * mean * r.rr, 0.0)) / r.rows
        bounds = {"log_loss_low": mean - z * std, "log_loss_high": mean + z * std}
        found[r.run_id, r.domain] = {"rows": r.rows, "log_loss": mean, **bounds}
    return found


if __name__ == "__main__":
    run_submitted("explain", run)
