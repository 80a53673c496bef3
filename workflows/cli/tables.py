"""Command that lists the tables and shows their rows: `tables`."""

from __future__ import annotations

from typing import Annotated

import typer

from star_ctr.workflows.cli.base import Conf, Json, Set, app, print_result


@app.command()
def tables(
    conf: Conf,
    set: Set = None,
    show: Annotated[str | None, typer.Option(metavar="TABLE", help="Show rows of this table.")] = None,
    where: Annotated[
        str | None,
        typer.Option(metavar="SQL", help="With --show: condition on the rows, for example \"domain = 'home'\"."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="With --show: maximum number of rows.")] = 10,
    json: Json = None,
) -> None:
    """List the tables of the warehouse, or show rows of one.

    The list contains the version, the number of rows and a description of each table. All are Delta tables. Times are
    in UTC. Values longer than 200 characters are truncated (`…`), except with --json. Needs no Spark.

    For example:

        star-ctr tables --conf mine.yaml --show ledger --where "reason != ''"
    """
    from star_ctr.conf.load import load
    from star_ctr.jobs.tools import tables as job
    from star_ctr.workflows.records_table import make_records_table
    from star_ctr.workflows.terminal import make_table, stderr

    settings = load(conf, set or [], with_recipe=False)
    if show is not None:
        found = job.read_table_rows(settings, show, where, limit, conf)
        print_result(found.rows, json, lambda: make_records_table(found.rows))
        more = "; show more with --limit" if found.total > len(found.rows) else ""
        stderr.print(f"{show}: {len(found.rows):,} of {found.total:,} rows{more}", highlight=False)
        return
    rows = job.run(settings)
    existing = [row for row in rows if row["version"] is not None]
    columns = ["table", "version", "rows", "description"]
    print_result(rows, json, lambda: make_table(existing, columns, settings.paths.warehouse))
    if not existing:
        stderr.print(
            f"{settings.paths.warehouse}: no tables yet; run `star-ctr nightly --conf {conf}` first", highlight=False
        )
