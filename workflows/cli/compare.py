"""Models side by side."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from star_ctr.workflows.cli.base import Conf, Json, Set, app, print_result, with_spark


@app.command()
def compare(
    conf: Conf,
    set: Set = None,
    models: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Such as base,star,mmoe_noaux; see `compare` in the docs.")
    ] = None,
    nights: Annotated[
        str | None, typer.Option(metavar="DAYS", help="Test days, such as 2022-05-04,2022-05-05.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="So many seeds for each model and night.")] = 3,
    scores: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=TABLE", help="An outside model's scores: impression_id, score, and seed if several."
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Trainings at a time; the number of cores if not given.")
    ] = None,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="build/compare/NAME if not given.")] = None,
    json: Json = None,
) -> None:
    """Models x nights x seeds on one set of features, and the paper's tables and figures of them; resumable.

    Without --models or --nights it does what the configuration's section `compare` declares.
    """
    from star_ctr.workflows import terminal
    from star_ctr.workflows.compare import report
    from star_ctr.workflows.compare import run as comparison

    plans = comparison.make_plans(models, nights, seeds)
    outside = comparison.parse_scores(scores or [])
    settings, results = with_spark(
        "compare",
        conf,
        set,
        lambda s, spark: comparison.run(conf, set or [], spark, plans, outside, jobs),
        progress=False,
        writes=True,
    )
    command = "star-ctr " + shlex.join(sys.argv[1:])
    path = report.write(results, command, Path(out or f"build/compare/{settings.name}"))
    print_result(report.make_json(results, command), json, lambda: terminal.make_comparison_table(results.rows))
    terminal.err.print(f"The report: {path}", highlight=False)
