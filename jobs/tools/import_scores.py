"""Import: evaluate the scores of an external model on the test rows of a night, for comparison with trained runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.errors import DataError
from star_ctr.jobs.evaluate import ScoredRun, evaluate_runs
from star_ctr.jobs.io.external_tables import load_external_table
from star_ctr.jobs.io.warehouse import WarehouseTables, make_in_condition
from star_ctr.jobs.score import SCORE_COLUMNS


def run(store: WarehouseTables, name: str, table: str, references: Mapping[str, str]) -> list[dict[str, Any]]:
    """Write the scores of an external model to `scores`, and their metrics to `metrics`.

    Args:
        store: The tables of the warehouse.
        name: The name of the model.
        table: Path or URL of a Parquet or Delta table with the columns `impression_id`, `score` (in [0, 1]) and,
            optionally, `seed` (0 by default). Rows of other impressions are ignored.
        references: For each night, a run that has scored its rows. Users, domains and labels are taken from it.

    Returns:
        The metrics, one row per night, seed and domain.

    Raises:
        DataError: A column is missing, or a row of a night does not have exactly one score in [0, 1].
    """
    external = _read(store, table)
    seeds = sorted(r.seed for r in external.select("seed").distinct().collect())
    runs = []
    for night, reference in references.items():
        rows = store.read("scores").where(F.col("run_id") == reference).drop("run_id", "attempt", "score")
        total = rows.count()
        for seed in seeds:
            identity = f"{night}-{name}-s{seed}"
            scored = rows.join(external.where(F.col("seed") == seed).drop("seed"), "impression_id")
            found = scored.agg(
                F.count("*").alias("n"),
                F.countDistinct("impression_id").alias("rows"),
                F.count_if(F.col("score").between(0, 1)).alias("good"),
            ).first()
            assert found is not None
            if not found.n == found.rows == found.good == total:
                raise DataError(
                    f"{table}: night {night}, seed {seed}: {total - found.rows:,} of {total:,} rows have no score, "
                    f"{found.n - found.rows:,} scores are duplicates, {found.n - found.good:,} are missing or outside "
                    "[0, 1]"
                )
            scored = scored.withColumns({"run_id": F.lit(identity), "attempt": F.lit(None).cast("long")}).select(
                *SCORE_COLUMNS
            )
            store.replace("scores", scored.repartition(1), make_in_condition("run_id", [identity]))
            runs.append(ScoredRun(identity, None, night, name, seed))
    return evaluate_runs(store, runs)


def _read(store: WarehouseTables, table: str) -> DataFrame:
    """Read an external table as impression_id, score and seed."""
    frame = load_external_table(store.spark, table).rows
    missing = {"impression_id", "score"} - set(frame.columns)
    if missing:
        names = ", ".join(f"`{name}`" for name in sorted(missing))
        raise DataError(f"{table}: no column {names} (columns: {', '.join(frame.columns)})")
    seed = F.col("seed").cast("long") if "seed" in frame.columns else F.lit(0).cast("long")
    return frame.select(F.col("impression_id").cast("string"), F.col("score").cast("double"), seed.alias("seed"))
