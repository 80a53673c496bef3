"""Commands that describe star-ctr itself: `schema` and `steps`."""

from __future__ import annotations

import dataclasses
import json as json_module
from typing import Annotated

import typer

from star_ctr.workflows.cli.base import Json, app, print_result


@app.command()
def schema(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print a Markdown page that lists all settings instead.")
    ] = False,
    columns: Annotated[
        bool, typer.Option("--columns", help="Print a Markdown list of the columns of all tables instead.")
    ] = False,
) -> None:
    """Print the JSON schema of the YAML file of a data set.

    Editors use the schema to complete and check the file. The Markdown texts are pages of the documentation.

    For example:

        star-ctr schema > settings.schema.json
    """
    from star_ctr.conf.reference import make_columns_reference, make_reference, make_schema

    if markdown or columns:
        typer.echo(make_reference() if markdown else make_columns_reference(), nl=False)
        return
    typer.echo(json_module.dumps(make_schema(), indent=1))


@app.command()
def steps(json: Json = None) -> None:
    """List the steps of a night, in order.

    For example:

        star-ctr steps --json -
    """
    from star_ctr.conf.contracts.pipeline import STEPS
    from star_ctr.workflows.terminal import make_table

    rows = [dataclasses.asdict(step) for step in STEPS.values()]
    print_result(
        rows,
        json,
        lambda: make_table([{**r, "writes": ", ".join(r["writes"])} for r in rows], ["name", "writes", "about"]),
    )
