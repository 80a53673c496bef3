"""The night: ingest, features, split, train, score, evaluate, in this order and safe to run again.

D is the newest complete day of logs. The model is trained on the days of the window before D and judged on D.
Every step replaces what it writes, so a night that was killed is simply run again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyspark.sql import SparkSession

from star_ctr.conf.settings import Settings
from star_ctr.jobs import evaluate, features, ingest, score, split, train
from star_ctr.workflows.display import step

STEPS: dict[str, Callable[[Settings, SparkSession, str | None], Any]] = {
    "ingest": ingest.run,
    "features": features.run,
    "split": split.run,
    "train": train.run,
    "score": score.run,
    "evaluate": evaluate.run,
}


def run(settings: Settings, spark: SparkSession, ds: str | None = None) -> list[dict[str, Any]]:
    """Run the whole night of `ds` (the newest day of the logs if none is given); returns its metrics by domain."""
    day = ingest.valid_day(ds) if ds else ingest.newest_day(settings, spark)
    result: Any = None
    for name, action in STEPS.items():
        with step(name, spark.sparkContext):
            result = action(settings, spark, day)
    metrics: list[dict[str, Any]] = result
    return metrics
