"""What the tables hold."""

from __future__ import annotations

from typing import Annotated

import typer

from star_ctr.workflows.cli.base import Conf, Json, Set, app, print_result, with_spark


@app.command()
def tables(
    conf: Conf,
    set: Set = None,
    show: Annotated[str | None, typer.Option(metavar="TABLE", help="Show rows of this table.")] = None,
    where: Annotated[
        str | None, typer.Option(metavar="SQL", help="Those of them: --where \"domain = 'home'\".")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="So many rows at most.")] = 10,
    json: Json = None,
) -> None:
    """Every table with path, version, rows and what it holds; with --show the first rows of one."""
    from star_ctr.jobs.tools import tables as job
    from star_ctr.workflows.terminal import err, format_records, make_table

    if show is not None:
        _, rows = with_spark("tables", conf, set, lambda s, spark: job.show(s, spark, show, where, limit))
        print_result(rows, json, lambda: format_records(rows))
        return
    settings, rows = with_spark("tables", conf, set, job.run)
    there = [row for row in rows if row["version"] is not None]
    print_result(rows, json, lambda: make_table(there, ["table", "version", "rows", "holds"], settings.paths.warehouse))
    if not there:
        err.print(f"{settings.paths.warehouse}: no tables yet; run `star-ctr nightly` first", highlight=False)
