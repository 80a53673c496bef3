"""The command `tune`, which searches for better settings of model and trainer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from star_ctr.workflows.cli.base import Conf, Jobs, Json, Set, Wait, app, print_result, with_spark


@app.command()
def tune(
    conf: Conf,
    set: Set = None,
    ds: Annotated[
        str | None,
        typer.Option(
            "--ds",
            metavar="DAY",
            help="Newest night, for example 2022-05-05. The search uses only nights before it. By default, the newest "
            "complete day of the logs.",
        ),
    ] = None,
    nights: Annotated[
        str | None,
        typer.Option(
            metavar="DAYS",
            help="Nights to search on, for example 2022-05-02,2022-05-03. By default, the two nights before the unseen "
            "night, which is the last one before --ds.",
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Stop after this number of trials, including the current settings."),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            metavar="M",
            help="Time for all training runs, including those that retrain the best trials. By default, 30; with "
            "--trials, no limit.",
        ),
    ] = None,
    jobs: Jobs = None,
    seeds: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Minimum number of seeds per night with which the best trials are retrained; more if there is time.",
        ),
    ] = 4,
    tries: Annotated[
        list[str] | None,
        typer.Option(
            "--try",
            metavar="SETTINGS",
            help="Compare these settings with the current ones on all --nights with --seeds seeds, without a "
            'search. For example --try "trainer.epochs=2 model.dropout=0.1". May be repeated.',
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder of the results. By default, build/tune/NAME.")
    ] = None,
    json: Json = None,
    wait: Wait = False,
) -> None:
    """Search for better settings of model and trainer, on nights before the newest one.

    The search starts from the current settings: those of the YAML file, or the recipe. Each trial changes some of them
    and trains a first model; only the better half of the trials continues with more nights and seeds. Because a search
    picks the luckiest trials, the best ones are then retrained with other seeds. Settings are proposed only if they
    still beat the current ones. The report shows their gain on a night that the search has not seen.

    Writes a report with plots and, if better settings were found, a YAML file that extends the current one. "No
    settings found" is a good result, too: none that were tried are clearly better than the current ones.

    Ctrl-C keeps finished runs, and the same command continues. Several processes, also on several machines with the
    same warehouse folder, can work on a search: run the same command in each of them, with --wait.

    The section `tune` of the YAML file declares the objective, its limits and the search space (docs/tune.md).

    For example:

        star-ctr tune --conf mine.yaml --minutes 60

        star-ctr nightly --conf build/tune/mine/mine-tuned.yaml

        star-ctr tune --conf mine.yaml --try trainer.epochs=2 --try "model.dropout=0.2 trainer.epochs=2"
    """
    from rich.console import Group
    from rich.text import Text

    from star_ctr.conf.errors import UserError
    from star_ctr.conf.load import load
    from star_ctr.conf.redaction import format_command
    from star_ctr.workflows import terminal
    from star_ctr.workflows.tune import report
    from star_ctr.workflows.tune import run as tuning
    from star_ctr.workflows.tune.nights import Nights, pin_nights, prepare
    from star_ctr.workflows.tune.space import make_space

    chosen = nights.replace(",", " ").split() if nights else None

    def prepare_nights(settings: Any, spark: Any) -> Any:
        if tries and chosen:
            prepared = pin_nights(settings, spark, Nights("", sorted(chosen), max(chosen)))
        else:
            prepared = prepare(settings, spark, ds, chosen)
        spark.stop()  # it would take memory and cores from the training runs
        return prepared

    if tries and (trials or minutes):
        raise UserError("--trials and --minutes limit a search; leave them out with --try")
    make_space(load(conf, set or []))  # its problems are found before Spark starts
    command = format_command(["star-ctr", *sys.argv[1:]])
    try:
        _, prepared = with_spark("tune", conf, set, prepare_nights, progress=False, writes=True, wait=wait)
        if tries:
            _compare(prepared, conf, set or [], tries, seeds, jobs, json)
            return
        limit = 30.0 if trials is None and minutes is None else minutes
        result = tuning.run(prepared, tuning.Options(trials, limit, jobs, seeds))
    except KeyboardInterrupt:
        terminal.stderr.print(f"Stopped. Finished runs are kept; to continue, run: {command}", highlight=False)
        raise
    folder = Path(out or f"build/tune/{prepared.settings.name}")
    found = report.write(result, conf, set or [], command, folder)

    def render() -> Group:
        rows = report.list_rows(found)
        table = [terminal.make_table(rows, list(rows[0]), "best trials, retrained with other seeds")] if rows else []
        return Group(*table, *(Text(line) for line in report.describe(found)))

    print_result(found, json, render)
    terminal.stderr.print(f"Report: {found['files']['report']}", highlight=False)


def _compare(
    prepared: Any, conf: str, overrides: list[str], tries: list[str], seeds: int, jobs: int | None, json: str | None
) -> None:
    """Compare given settings with the current ones, and print a table."""
    from star_ctr.workflows.terminal import make_table
    from star_ctr.workflows.tune import variants

    rows = variants.compare(prepared, conf, overrides, tries, seeds, jobs)
    objective = prepared.settings.tune.objective
    title = f"gain: difference in {objective}, paired by night and seed, ± its standard error"
    shown = [
        {
            **row,
            "gain": "" if row["error"] is None else f"{row['gain']:+.4f} ± {row['error']:.4f}",
            "seconds": f"{row['seconds']:.1f}",
        }
        for row in rows
    ]
    columns = ["settings", "runs", "auc", "gauc", "pcoc", "log_loss", "gain", "seconds"]
    print_result(rows, json, lambda: make_table(shown, columns, title))
