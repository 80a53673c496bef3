"""Command to compare models: `compare`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from star_ctr.workflows.cli.base import Conf, Jobs, Json, Set, TestDays, Wait, app, print_result, with_spark


@app.command()
def compare(
    conf: Conf,
    set: Set = None,
    models: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Models to compare, for example base,star,mmoe_noaux. docs/compare.md lists the names; the section "
            "`compare.models` can declare others. By default, those of the paper's Table 2, PLE and PEPNet.",
        ),
    ] = None,
    nights: TestDays = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Number of seeds per model and night, by default 3. Requires --models or --nights."
        ),
    ] = None,
    scores: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=TABLE",
            help="Also compare the scores of another model: a Parquet or Delta table with the columns impression_id, "
            "score and, if there are several seeds, seed. May be repeated.",
        ),
    ] = None,
    jobs: Jobs = None,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder of the report. By default, build/compare/NAME.")
    ] = None,
    json: Json = None,
    wait: Wait = False,
) -> None:
    """Compare models on the same nights, with several seeds.

    Trains each model with each seed for each night on the same features. Writes a report with the tables and figures
    of the paper. Without --models and --nights, the section `compare` of the configuration declares the plans.

    Takes as long as models x seeds x nights training runs, of which --jobs run at the same time. By default, these are
    24: 8 models with 3 seeds on one night. The report of a night shows how long one takes. To find better settings for
    the model that you use, run `star-ctr tune` instead: it stops training bad settings early.

    If it is stopped, run the same command again: finished training runs are kept.

    For example:

        star-ctr compare --conf mine.yaml --models base,star --seeds 3
    """
    from star_ctr.conf.redaction import format_command
    from star_ctr.workflows import terminal
    from star_ctr.workflows.compare import report
    from star_ctr.workflows.compare import run as comparison

    plans = comparison.make_plans(models, nights, seeds)
    outside = comparison.parse_scores(scores or [])
    comparison.check_plans(conf, set or [], plans)
    settings, results = with_spark(
        "compare",
        conf,
        set,
        lambda s, spark: comparison.run(conf, set or [], spark, plans, outside, jobs),
        progress=False,
        writes=True,
        wait=wait,
    )
    command = format_command(["star-ctr", *sys.argv[1:]])
    path = report.write(results, command, Path(out or f"build/compare/{settings.name}"))
    print_result(report.make_json(results, command), json, lambda: terminal.make_comparison_table(results.rows))
    terminal.stderr.print(f"Report: {path}", highlight=False)
