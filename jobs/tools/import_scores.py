"""Outside: the scores of a model that this system did not train, judged on the rows of a night beside its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.errors import DataError
from star_ctr.jobs.evaluate import Run, evaluate_runs
from star_ctr.jobs.io.external_tables import load_external_table
from star_ctr.jobs.io.warehouse import WarehouseTables, make_in_condition


def run(store: WarehouseTables, name: str, table: str, references: Mapping[str, str]) -> list[dict[str, Any]]:
    """Judge the scores of `table` on the rows of each night; returns their metrics.

    `table`: a Parquet or Delta table with `impression_id` and `score` in [0, 1], and `seed` where there are several;
    rows of other impressions are left alone. `references`: for each night a run that scored its rows. `DataError`
    where a row of a night has no score, or two.
    """
    given = _read(store, table)
    seeds = sorted(r.seed for r in given.select("seed").distinct().collect())
    runs = []
    for night, reference in references.items():
        rows = store.read("scores").where(F.col("run_id") == reference).drop("run_id", "attempt", "score")
        total = rows.count()
        for seed in seeds:
            identity = f"{night}-{name}-s{seed}"
            scored = rows.join(given.where(F.col("seed") == seed).drop("seed"), "impression_id")
            found = scored.agg(
                F.count("*").alias("n"),
                F.countDistinct("impression_id").alias("rows"),
                F.count_if(F.col("score").between(0, 1)).alias("good"),
            ).first()
            assert found is not None
            if not found.n == found.rows == found.good == total:
                raise DataError(
                    f"{table}: of the {total:,} rows of {night}, seed {seed}, {total - found.rows:,} have no score, "
                    f"{found.n - found.rows:,} have a second one, {found.n - found.good:,} scores are not in [0, 1]"
                )
            columns = ("run_id", "attempt", "ds", "impression_id", "user_id", "domain", "label", "score")
            scored = scored.withColumns({"run_id": F.lit(identity), "attempt": F.lit(None).cast("long")}).select(
                *columns
            )
            store.replace("scores", scored.repartition(1), make_in_condition("run_id", [identity]))
            runs.append(Run(identity, None, night, name, seed))
    return evaluate_runs(store, runs)


def _read(store: WarehouseTables, table: str) -> DataFrame:
    frame = load_external_table(store.spark, table).rows
    missing = {"impression_id", "score"} - set(frame.columns)
    if missing:
        raise DataError(f"{table}: lacks the column {', '.join(sorted(missing))}; it has {', '.join(frame.columns)}")
    seed = F.col("seed").cast("long") if "seed" in frame.columns else F.lit(0).cast("long")
    return frame.select(F.col("impression_id").cast("string"), F.col("score").cast("double"), seed.alias("seed"))
