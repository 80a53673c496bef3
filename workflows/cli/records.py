"""Recorded runs: trained again, and kept from being cleaned away."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated

import typer

from star_ctr.workflows.cli.base import (
    AttemptNumber,
    Conf,
    Json,
    Set,
    Wait,
    app,
    print_result,
    print_values,
    with_spark,
)


@app.command()
def replay(
    conf: Conf,
    run_id: Annotated[str, typer.Option("--run-id", metavar="RUN", help="The recorded run.")],
    attempt: AttemptNumber = None,
    set: Set = None,
    json: Json = None,
) -> None:
    """Train and score a recorded run again from its pinned versions, and say whether it comes to the same bits.

    Leaves with exit code 1 where they are not. The tables stay as they are; the weights go into warehouse/…/replays.
    """
    from star_ctr.jobs.tools import replay as job

    _, result = with_spark("replay", conf, set, lambda s, spark: job.run(s, spark, run_id, attempt), writes=True)
    print_values(result, json)
    if (result["weights"], result["metrics"]) != ("the same bits", "the same"):
        raise typer.Exit(1)


@app.command()
def clean(
    conf: Conf,
    set: Set = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete the data instead of only listing it.")] = False,
    json: Json = None,
    wait: Wait = False,
) -> None:
    """Delete data that is older than the ages in the section `retention`; without --yes, only list it.

    Keeps what the serving model, rollbacks, pinned runs and later nights need. In a scheduled job, pass --yes --wait.
    """
    from star_ctr.conf.load import load
    from star_ctr.workflows import retention
    from star_ctr.workflows.lease import hold_lease
    from star_ctr.workflows.terminal import err, make_table

    settings = load(conf, set or [])
    with hold_lease(settings, wait) if yes else nullcontext():
        rows = retention.run(settings, dry_run=not yes)
    print_result(rows, json, lambda: make_table(rows, ["what", "items", "bytes", "why"]))
    freed = sum(row["bytes"] for row in rows) / 1e6
    done = f"{freed:,.1f} MB {'freed' if yes else 'would be freed; pass --yes to delete'}"
    err.print(done if rows else "nothing is old enough to delete (section `retention`)", highlight=False)


@app.command()
def verify(
    conf: Conf,
    set: Set = None,
    everything: Annotated[bool, typer.Option("--all", help="Verify all published attempts.")] = False,
    json: Json = None,
) -> None:
    """Verify the files of the serving model, of models that a rollback can return to, and of pinned runs.

    Exits with code 1 if a file is missing or changed. Needs no Spark and writes nothing.
    """
    from star_ctr.conf.load import load
    from star_ctr.jobs.tools import verify as job
    from star_ctr.workflows.terminal import err, make_table

    rows = job.run(load(conf, set or []), everything)
    print_result(rows, json, lambda: make_table(rows, ["run_id", "attempt", "why", "files", "damaged"]))
    if not rows:
        err.print(f"nothing to verify: no model is {'published' if everything else 'serving or pinned'}")
    if any(row["damaged"] for row in rows):
        err.print("Restore the damaged files, or serve another model with `star-ctr promote` or `star-ctr rollback`.")
        raise typer.Exit(1)
