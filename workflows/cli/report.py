"""Command that writes the report of a night: `report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from star_ctr.workflows.cli.base import Conf, Day, Set, app


@app.command()
def report(
    conf: Conf,
    set: Set = None,
    ds: Day = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="HTML file to write. By default, build/report/NAME-DAY.html; "
            "with --set, the name contains a hash of the settings.",
        ),
    ] = None,
) -> None:
    """Write an HTML page with the results of a night.

    Shows the decision of the gate, metrics and their changes, calibration, training, run times, and where rows were
    dropped. Works on phones. By default, it shows the newest night that has metrics. Needs no Spark.

    For example:

        star-ctr report --conf mine.yaml --ds 2026-03-04
    """
    from star_ctr.conf.load import load
    from star_ctr.conf.redaction import format_command
    from star_ctr.workflows.report import page
    from star_ctr.workflows.report.data import collect
    from star_ctr.workflows.terminal import stderr

    settings = load(conf, set or [])
    data = collect(settings, ds)
    # The report of an experiment must not replace that of the night.
    suffix = f"-{data.settings_hash[:8]}" if set else ""
    file = Path(out or f"build/report/{settings.name}-{data.ds}{suffix}.html")
    page.write(data, format_command(["star-ctr", *sys.argv[1:]]), file)
    stderr.print(f"Report: {file}", highlight=False)
