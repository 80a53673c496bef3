"""Whole nights: one, many, and how they stand."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from star_ctr.conf.settings.root import Settings
from star_ctr.workflows.cli.base import Conf, Day, Json, Set, Wait, app, print_result, with_spark

From = Annotated[str | None, typer.Option("--from", metavar="DAY", help="The first night.")]
To = Annotated[str | None, typer.Option("--to", metavar="DAY", help="The last night.")]


@app.command()
def nightly(conf: Conf, set: Set = None, ds: Day = None, json: Json = None, wait: Wait = False) -> None:
    """The whole night: ingest, features, split, train, score, evaluate, gate; ends with the metrics by domain."""
    from star_ctr.conf.contracts.catalog import Warehouse
    from star_ctr.jobs.registry.attempts import get_published_attempt
    from star_ctr.workflows import nightly as night
    from star_ctr.workflows.terminal import err, make_metrics_table

    began = time.monotonic()
    settings, result = with_spark(
        "nightly", conf, set, lambda s, spark: night.run(s, spark, ds), progress=False, writes=True, wait=wait
    )
    rows, gate = result["metrics"], result["gate"]
    print_result(rows, json, lambda: make_metrics_table(rows))
    err.print(f"gate: {gate['outcome']}: {gate['reason']}", highlight=False)
    folder = get_published_attempt(Warehouse(settings.paths), gate["run_id"], gate["attempt"]).folder
    err.print(f"{time.monotonic() - began:.0f} s; the model: {folder}", highlight=False)
    err.print(f"The tables: star-ctr tables --conf {conf} (--show metrics)", highlight=False)


@app.command()
def backfill(
    conf: Conf, set: Set = None, first: From = None, last: To = None, json: Json = None, wait: Wait = False
) -> None:
    """Nights in order, from --from to --to; what is done and still valid is kept, what is stale is done again.

    Still valid: inputs, settings and the code that a step imports are as they were. Without --to the newest day of the
    logs is the last; without --from the oldest night that was ever run is the first, so that all are caught up with.
    Killed or failed, it goes on where it stood when it is run again. `star-ctr status` shows what it would do.
    """
    from star_ctr.workflows import backfill as filling
    from star_ctr.workflows.terminal import make_table

    def action(settings: Settings, spark: Any) -> Any:
        return filling.run(settings, spark, first, last)

    _, report = with_spark("backfill", conf, set, action, progress=False, writes=True, wait=wait)
    print_result(report, json, lambda: make_table(report, ["ds", "step", "did", "why"]))


@app.command()
def status(
    conf: Conf,
    set: Set = None,
    first: From = None,
    last: To = None,
    json: Json = None,
    nights: Annotated[int, typer.Option("--last", min=1, help="So many nights, the newest ones.")] = 14,
) -> None:
    """Nights x steps: done, stale, running, failed, missing, and why; without Spark, in a second or two."""
    from star_ctr.conf.load import load
    from star_ctr.workflows import status as standing
    from star_ctr.workflows.terminal import make_status_table

    rows = standing.run(load(conf, set or []), first, last, nights)
    print_result(rows, json, lambda: make_status_table(rows))
