"""Evaluate: AUC, GAUC (eq. 9), PCOC and log loss of a night's scores, for each domain and overall, into `metrics`.

spark-submit --packages io.delta:delta-spark_2.13:4.0.1 jobs/evaluate.py --conf conf/kuairand.yaml
"""

from __future__ import annotations

from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.errors import DataError
from star_ctr.conf.identity import run_id, variant
from star_ctr.conf.settings import OVERALL, Settings
from star_ctr.features.metrics import METRICS, by_domain
from star_ctr.jobs.ingest import valid_day
from star_ctr.jobs.session import submitted
from star_ctr.jobs.split import natural
from star_ctr.jobs.store import Store, quoted

COLUMNS = ("run_id", "ds", "model", "seed", "domain", *METRICS)


def run(settings: Settings, spark: SparkSession, ds: str | None = None) -> list[dict[str, Any]]:
    """Write and return the metrics of night `ds`, one row a domain, `overall` last."""
    store = Store(settings, spark)
    ds = valid_day(ds) if ds else store.days("scores")[-1]
    identity = run_id(settings, ds)
    scores = store.read("scores").where(F.col("run_id") == identity).persist()
    metrics = by_domain(scores).select(
        F.lit(identity).alias("run_id"),
        F.lit(ds).alias("ds"),
        F.lit(variant(settings)).alias("model"),
        F.lit(settings.trainer.seed).cast("long").alias("seed"),
        "domain",
        *METRICS,
    )
    store.replace("metrics", metrics.coalesce(1), f"run_id = {quoted(identity)}")
    scores.unpersist()
    rows = read_metrics(store, identity)
    if not rows:
        raise DataError(f"{store.warehouse.table('scores')}: no scores of {identity}; run `star-ctr score --ds {ds}`")
    entries = [(ds, r["domain"], r["rows"], r["rows"], "") for r in rows if r["domain"] != OVERALL]
    store.write_ledger("evaluate", store.ledger_rows(entries), [ds], identity)
    return rows


def read_metrics(store: Store, identity: str) -> list[dict[str, Any]]:
    """The metrics of a run, domains in their order and `overall` last."""
    found = store.read("metrics").where(F.col("run_id") == identity).select(*COLUMNS).collect()
    return sorted((r.asDict() for r in found), key=lambda r: (r["domain"] == OVERALL, natural(r["domain"])))


if __name__ == "__main__":
    submitted("evaluate", run)
