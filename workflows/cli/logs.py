"""Whether the logs of a day have come."""

from __future__ import annotations

from typing import Annotated

import typer

from star_ctr.workflows.cli.base import Conf, Json, Set, app, print_result

NOT_YET = 75  # EX_TEMPFAIL of sysexits.h: ask again later


@app.command()
def ready(
    conf: Conf,
    ds: Annotated[str, typer.Option("--ds", metavar="DAY", help="The day, as in 2022-05-05.")],
    set: Set = None,
    json: Json = None,
) -> None:
    """Say without Spark whether a day's logs have come: exit code 0 if all have, 75 if some have not yet."""
    from star_ctr.conf.contracts.dates import check_day
    from star_ctr.conf.load import load
    from star_ctr.jobs.tools import ready as job
    from star_ctr.workflows.terminal import err, make_table

    settings = load(conf, set or [])
    try:
        found = job.run(settings, check_day(ds))
    except OSError as error:
        err.print(f"not yet: the logs' store does not answer: {error}", highlight=False)
        raise typer.Exit(NOT_YET) from None
    print_result(found, json, lambda: make_table(found, ["log", "files", "path"]))
    missing = [f["log"] for f in found if not f["files"]]
    if missing:
        err.print(f"not yet: no file of {ds} for {', '.join(missing)}", highlight=False)
        raise typer.Exit(NOT_YET)
