"""Commands for recorded runs: `replay`, `clean` and `verify`."""

from __future__ import annotations

from contextlib import ExitStack
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
    run_id: Annotated[str, typer.Option("--run-id", metavar="RUN", help="Run to train again.")],
    attempt: AttemptNumber = None,
    set: Set = None,
    json: Json = None,
    wait: Wait = False,
) -> None:
    """Train a recorded run again, and compare the results.

    Trains and scores the run from the table versions, settings and seed in its record. Then compares the weights bit by
    bit, and the metrics. Changes no table and no model: the new weights go to the folder `replays` of the warehouse.

    Exits with code 1 if weights or metrics differ.

    For example:

        star-ctr replay --conf mine.yaml --run-id RUN
    """
    from star_ctr.jobs.tools import replay as job

    _, result = with_spark(
        "replay", conf, set, lambda s, spark: job.run(s, spark, run_id, attempt), writes=True, wait=wait
    )
    print_values(result, json)
    if not result["identical"]:
        raise typer.Exit(1)


@app.command()
def clean(
    conf: Conf,
    set: Set = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete the data instead of only listing it.")] = False,
    json: Json = None,
    wait: Wait = False,
) -> None:
    """List old data that is no longer needed; with --yes, delete it.

    The section `retention` sets the age in days after which each kind of data is deleted. Regardless of age, it keeps
    what the serving model, rollbacks, pinned runs and later nights need. Without --yes, it can run at any time. In a
    schedule, run it after the night, with --yes and --wait.

    For example:

        star-ctr clean --conf mine.yaml --yes --wait
    """
    from star_ctr.conf.load import load
    from star_ctr.workflows import retention
    from star_ctr.workflows.lease import hold_lease
    from star_ctr.workflows.run_log import log_to_warehouse
    from star_ctr.workflows.terminal import make_table, stderr

    settings = load(conf, set or [])
    with ExitStack() as stack:
        if yes:
            stack.enter_context(hold_lease(settings, wait))
            stack.enter_context(log_to_warehouse(settings, "clean"))
        rows = retention.run(settings, dry_run=not yes)
    print_result(rows, json, lambda: make_table(rows, ["what", "items", "bytes", "reason"]))
    megabytes = sum(row["bytes"] for row in rows) / 1e6
    summary = f"{megabytes:,.1f} MB {'freed' if yes else 'would be freed; pass --yes to delete'}"
    stderr.print(summary if rows else "nothing to delete: see the ages in the section `retention`", highlight=False)


@app.command()
def verify(
    conf: Conf,
    set: Set = None,
    everything: Annotated[bool, typer.Option("--all", help="Verify all published attempts.")] = False,
    json: Json = None,
) -> None:
    """Check the files of models for damage.

    Compares the files of the serving model, of models that a rollback can return to, and of pinned runs with the hashes
    in their records. Needs no Spark and writes nothing.

    Exits with code 1 if a file is missing or has changed.

    For example:

        star-ctr verify --conf mine.yaml --all
    """
    from star_ctr.conf.load import load
    from star_ctr.jobs.tools import verify as job
    from star_ctr.workflows.terminal import make_table, stderr

    rows = job.run(load(conf, set or []), everything)
    damaged = ["damaged"] if any(row["damaged"] for row in rows) else []
    print_result(rows, json, lambda: make_table(rows, ["run_id", "attempt", "reason", "files", *damaged]))
    if not rows:
        stderr.print(f"nothing to verify: no model is {'published' if everything else 'serving or pinned'}")
    if any(row["damaged"] for row in rows):
        stderr.print(
            "Restore the damaged files, or serve another model with `star-ctr promote` or `star-ctr rollback`."
        )
        raise typer.Exit(1)
