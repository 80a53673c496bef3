"""The night: ingest, features, split, train, score, evaluate, gate (and refit), in this order and safe to run again.

D is the newest complete day of logs. The model is trained on the days of the window before D and judged on D.
Every step replaces what it writes, so a night that was killed is simply run again; what was run, on what it stood and
how it ended goes into the journal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyspark.sql import SparkSession

from star_ctr.conf.contracts.dates import check_day
from star_ctr.conf.contracts.pipeline import STEPS, list_steps
from star_ctr.conf.errors import UserError
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs import evaluate, features, gate, ingest, refit, score, split, train
from star_ctr.jobs.io import table_hashes
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.quality.day_checks import describe_quarantine
from star_ctr.jobs.quality.profile import describe_matches
from star_ctr.workflows.journal import Journal
from star_ctr.workflows.staleness import Staleness
from star_ctr.workflows.status import read_staleness
from star_ctr.workflows.terminal import err, show_step

ACTIONS: dict[str, Callable[..., Any]] = {
    "ingest": ingest.run,
    "features": features.run,
    "split": split.run,
    "train": train.run,
    "score": score.run,
    "evaluate": evaluate.run,
    "gate": gate.run,
    "refit": refit.run,
}


def run(settings: Settings, spark: SparkSession, ds: str | None = None) -> dict[str, Any]:
    """Run the whole night of `ds` (the newest day of the logs if none is given).

    Returns its `metrics` by domain, what the `gate` decided, and what became of a `refit` (None if not asked for).
    """
    day = choose_night(settings, spark, "ingest", ds)
    results = {name: run_step(settings, spark, name, day, "asked for") for name in list_steps(settings)}
    return {"metrics": results["evaluate"], "gate": results["gate"], "refit": results.get("refit")}


def choose_night(settings: Settings, spark: SparkSession, name: str, ds: str | None) -> str:
    """The night that a step is asked for: `ds`, or the newest one that what it reads holds.

    Raises:
        DataError: The step is `ingest`, and the impression log has no file of day `ds`.
    """
    if ds is not None:
        return ingest.check_day_has_files(settings, ds) if name == "ingest" else check_day(ds)
    day_from = STEPS[name].day_from
    if day_from is None:
        return ingest.find_newest_day(settings, spark)
    return WarehouseTables(settings, spark).days(day_from)[-1]


def run_step(
    settings: Settings,
    spark: SparkSession,
    name: str,
    ds: str,
    why: str,
    standing: Staleness | None = None,
    **more: Any,
) -> Any:
    """Run a step of night `ds` with its progress shown, and write it down in the journal; `why` stands there too.

    `standing`: how the nights stand before it, if that is known.
    """
    journal, standing = Journal(settings), standing or read_staleness(settings, busy=True)
    if start := standing.find_removed_start(ds, name):
        raise UserError(
            f"{name} of {ds} starts from the night {start}, which `star-ctr clean` has removed; run "
            f"`star-ctr backfill --from {start}`"
        )

    def outputs() -> dict[str, dict[str, str]]:
        return table_hashes.hash_tables(settings, WarehouseTables(settings, spark), ds) if name == "ingest" else {}

    entry = journal.record_step(ds, name, standing.get_run_id(ds, name), standing.hash_inputs(ds, name), why, outputs)
    with show_step(name, spark.sparkContext), entry:
        result = ACTIONS[name](settings, spark, ds)
    describe = {"ingest": describe_quarantine, "features": describe_matches}.get(name)
    for line in describe(settings, ds) if describe else ():
        err.print(f"  {line}", highlight=False)
    return result
