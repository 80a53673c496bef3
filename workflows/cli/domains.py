"""The command `domains`, which shows what domains gain from each other."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from star_ctr.workflows.cli.base import Conf, Jobs, Json, Set, TestDays, Wait, app, print_result, with_spark


@app.command()
def domains(
    conf: Conf,
    set: Set = None,
    nights: TestDays = None,
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="Number of seeds per model and night.")] = 3,
    domains: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Domains to analyze, for example feed,search. Default: see --min-clicks."),
    ] = None,
    min_clicks: Annotated[
        int,
        typer.Option(
            "--min-clicks",
            min=1,
            metavar="N",
            help="Analyze the domains with at least this many clicks in the training rows of every night.",
        ),
    ] = 100,
    jobs: Jobs = None,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder of the results. By default, build/domains/NAME.")
    ] = None,
    json: Json = None,
    wait: Wait = False,
) -> None:
    """Show which domains help each other, and which are harmed by training together.

    Trains one model on all domains, and for each domain one model on its rows alone and one on all rows except its own.
    With D domains, this makes 2D + 1 models per night and seed.

    A domain gains if the joint model is better on its test rows than the model of the domain alone. It helps or harms
    the others if the joint model is better or worse on their test rows than the model without it. Effects have
    intervals over users and seeds. Verdicts are corrected for the number of domains.

    Writes an HTML report, results.json and effects.csv. If it is stopped, run the same command again: finished training
    runs are kept.

    For example:

        star-ctr domains --conf mine.yaml --seeds 5
    """
    from star_ctr.conf.redaction import format_command
    from star_ctr.workflows import terminal
    from star_ctr.workflows.domains import report
    from star_ctr.workflows.domains import run as experiment

    days, names = (value.replace(",", " ").split() if value else [] for value in (nights, domains))
    settings, results = with_spark(
        "domains",
        conf,
        set,
        lambda s, spark: experiment.run(conf, set or [], spark, days, seeds, names, min_clicks, jobs),
        progress=False,
        writes=True,
        wait=wait,
    )
    command = format_command(["star-ctr", *sys.argv[1:]])
    path = report.write(results, command, Path(out or f"build/domains/{settings.name}"))
    print_result(report.make_json(results, command), json, lambda: report.make_terminal_table(results))
    terminal.stderr.print(f"Report: {path}", highlight=False)
