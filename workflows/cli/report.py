"""What is read in the morning."""

from __future__ import annotations

import shlex
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
        str | None, typer.Option("--out", metavar="FILE", help="build/report/NAME-DAY.html if not given.")
    ] = None,
) -> None:
    """The night on one page, for a phone too: decision, metrics, calibration, rows, training, time; without Spark."""
    from star_ctr.conf.load import load
    from star_ctr.workflows.report import page
    from star_ctr.workflows.report.data import collect
    from star_ctr.workflows.terminal import err

    settings = load(conf, set or [])
    morning = collect(settings, ds)
    file = Path(out or f"build/report/{settings.name}-{morning.ds}.html")
    page.write(morning, "star-ctr " + shlex.join(sys.argv[1:]), file)
    err.print(f"The page: {file}", highlight=False)
