"""Recorded runs: trained again, and kept from being cleaned away."""

from __future__ import annotations

from typing import Annotated

import typer

from star_ctr.workflows.commands import Conf, Json, Set, app, listed, printed, with_spark, writing


@app.command()
def replay(
    conf: Conf,
    run_id: Annotated[str, typer.Option("--run-id", metavar="RUN", help="The recorded run.")],
    set: Set = None,
    json: Json = None,
) -> None:
    """Train and score a recorded run again from its pinned versions, and say whether it comes to the same bits.

    Leaves with exit code 1 where they are not. The tables stay as they are; the weights go into warehouse/…/replays.
    """
    from star_ctr.jobs import replay as job

    _, result = with_spark("replay", conf, set, lambda s, spark: job.run(s, spark, run_id), writes=True)
    listed(result, json)
    if (result["weights"], result["metrics"]) != ("the same bits", "the same"):
        raise typer.Exit(1)


@app.command()
def clean(
    conf: Conf,
    set: Set = None,
    days: Annotated[float, typer.Option(min=0, help="Keep what was replaced in so many days.")] = 30,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    json: Json = None,
) -> None:
    """Remove files that were replaced days ago, but none that a recorded run or the serving model cites."""
    from star_ctr.jobs import clean as job
    from star_ctr.workflows.display import plain_table

    with writing(conf, set) as settings:
        rows = job.run(settings, days, dry_run)
    printed(rows, json, lambda: plain_table(rows, ["table", "files", "bytes", "versions kept for runs"]))
