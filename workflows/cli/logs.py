"""Command that checks whether the logs of a day have arrived: `ready`."""

from __future__ import annotations

from typing import Annotated

import typer

from star_ctr.workflows.cli.base import Conf, Json, Set, app, print_result

EXIT_NOT_READY = 75
"""Exit code if files are missing: EX_TEMPFAIL of sysexits.h, which means "try again later"."""


@app.command()
def ready(
    conf: Conf,
    ds: Annotated[str, typer.Option("--ds", metavar="DAY", help="Day of the logs, for example 2022-05-05.")],
    set: Set = None,
    json: Json = None,
) -> None:
    """Check whether the logs of a day are complete.

    A log whose path contains the day must have a file of this day, and meet the conditions in its section `complete`:
    a marker file, a number of hours, or a number of rows. Every other log needs at least one file. Needs no Spark, so a
    scheduler can call it often.

    Exits with code 0 if all logs are complete, and with code 75 if something is missing or the storage does not
    respond.

    For example:

        star-ctr ready --conf mine.yaml --ds 2026-03-04
    """
    from star_ctr.conf.contracts.dates import check_day
    from star_ctr.conf.load import load
    from star_ctr.jobs.tools import ready as job
    from star_ctr.workflows.terminal import make_table, stderr

    settings = load(conf, set or [], with_recipe=False)
    try:
        found = job.run(settings, check_day(ds))
    except OSError as error:
        stderr.print(f"not ready: the storage of the logs does not respond: {error}", highlight=False)
        raise typer.Exit(EXIT_NOT_READY) from None
    print_result(found, json, lambda: make_table(found, ["log", "files", "path"]))
    if missing := [f"{f['log']}: {f['missing']}" for f in found if f["missing"]]:
        stderr.print(f"not ready for {ds}: {'; '.join(missing)}", highlight=False)
        raise typer.Exit(EXIT_NOT_READY)
