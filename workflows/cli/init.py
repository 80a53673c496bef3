"""Command that drafts the YAML file of a new data set: `init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from star_ctr.conf.errors import UserError
from star_ctr.workflows.cli.base import Json, app, print_result


@app.command()
def init(
    logs: Annotated[str, typer.Option("--logs", metavar="FOLDER", help="Folder with the logs, or its URL.")],
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            help="Name of the data set. By default, the name of the folder, or of its first parent that is not called "
            "logs or data.",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="FILE", help="File to write. By default, NAME.yaml in the current directory."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    json: Json = None,
) -> None:
    """Draft the YAML file of a new data set from its logs.

    Finds the logs in a folder, reads a sample of each, and writes a commented file with their formats and keys, the
    domain, the label, and a first set of features. Comments give reasons, and list what you must check. Needs no Spark.

    For example:

        star-ctr init --logs /data/shop

        star-ctr check --conf shop.yaml
    """
    import re

    from rich.console import Group, RenderableType
    from rich.text import Text

    from star_ctr.conf.files import write_text
    from star_ctr.jobs.new_data_set.draft import draft_settings
    from star_ctr.workflows.terminal import make_table

    folders = [
        part for part in logs.rstrip("/").split("/") if part.lower() not in ("", ".", "..", "log", "logs", "data")
    ]
    chosen = name or re.sub(r"[^a-z0-9]+", "-", folders[-1].lower() if folders else "").strip("-") or "mine"
    file = Path(out or f"{chosen}.yaml")
    if file.exists() and not force:
        raise UserError(f"{file} exists; pass --force to replace it, or --out to write another file")
    draft = draft_settings(logs, chosen, lambda pattern: typer.echo(f"reading {pattern}", err=True))
    write_text(file, draft.text)
    found = {**draft._asdict(), "logs": [log._asdict() for log in draft.logs], "file": str(file)}

    def render() -> RenderableType:
        rows = [{**log._asdict(), "log": log.log or "(not used)"} for log in draft.logs]
        return Group(
            make_table(rows, ["log", "path", "files", "columns"]),
            *(Text(f"note: {note}") for note in draft.notes),
            Text("Check these settings; the logs do not determine them:", style="bold"),
            *(Text(f"  {number}. {question}") for number, question in enumerate(draft.questions, start=1)),
            Text(f"Wrote {file}. Review it, then run: star-ctr check --conf {file}"),
        )

    print_result(found, json, render)
