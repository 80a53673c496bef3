"""Commands for metrics: `evaluate` (a night, or a table of scores) and `metrics` (a metric day by day)."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

import typer
from rich.console import Group

from star_ctr.conf.errors import UserError
from star_ctr.conf.settings.root import Settings
from star_ctr.workflows.cli.base import Conf, Day, Json, Set, Wait, app, print_result, with_spark

_DAY = ["%Y-%m-%d"]
DEFAULT_CONF = "demo"
"""Configuration whose sections `spark` and `evaluate` are used for `--input` without `--conf`."""


@app.command()
def evaluate(
    conf: Annotated[
        str | None,
        typer.Option(
            "--conf",
            metavar="FILE",
            help="YAML file of the data set. Required without --input. With --input, only its sections `spark` and "
            "`evaluate` are used.",
        ),
    ] = None,
    set: Set = None,
    ds: Day = None,
    json: Json = None,
    table: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="TABLE",
            help="Evaluate these scores instead of those of a night: a Delta or Parquet table, or a CSV file with a "
            "header (.csv or .csv.gz).",
        ),
    ] = None,
    user_col: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="With --input: column of the user. Required.")
    ] = None,
    domain_col: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="With --input: column of the domain, for metrics per domain."),
    ] = None,
    label_col: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="With --input: column of the label, 0 or 1. Required.")
    ] = None,
    score_col: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="With --input: column of the score, between 0 and 1. Required."),
    ] = None,
    ds_col: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="With --input: column of the day, for metrics per day.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Also compute the differences in AUC and GAUC from this run, which must have scored the same rows.",
        ),
    ] = None,
    wait: Wait = False,
) -> None:
    """Step 6: compute AUC, GAUC, PCOC and log loss per domain.

    Without --input, evaluates the scores of a night's test rows, per domain and overall, and writes the table `metrics`
    (with --against, also `differences`). With --input, evaluates any other scores and writes no table.

    AUC and GAUC have confidence intervals from a bootstrap over users. docs/metrics.md describes the metrics.

    For example:

        star-ctr evaluate --conf mine.yaml --ds 2026-03-04

        star-ctr evaluate --input s.csv --user-col u --label-col y --score-col p
    """
    columns = {"--user-col": user_col, "--label-col": label_col, "--score-col": score_col}
    if table is None:
        if any((*columns.values(), domain_col, ds_col)):
            raise UserError("--user-col, --domain-col, --label-col, --score-col and --ds-col require --input TABLE")
        if conf is None:
            raise UserError("give --conf FILE to evaluate a night of a data set, or --input TABLE for other scores")
        _evaluate_night(conf, set, ds, json, against, wait)
        return
    missing = [option for option, column in columns.items() if column is None]
    if missing:
        raise UserError(f"--input {table}: also give the names of its columns with {', '.join(missing)}")
    if ds or against:
        raise UserError("--ds and --against cannot be used with --input; give the column of the day with --ds-col")
    assert user_col is not None
    assert label_col is not None
    assert score_col is not None
    from star_ctr.jobs.tools import evaluate_table

    scored = evaluate_table.ScoreTable(table, user_col, label_col, score_col, domain_col, ds_col)
    _, rows = with_spark(
        "evaluate", conf or DEFAULT_CONF, set, lambda s, spark: evaluate_table.run(spark, scored, s.evaluate)
    )

    def make_tables() -> Group:
        from star_ctr.workflows.terminal import make_metrics_table

        by_day: dict[str | None, list[dict[str, Any]]] = {}
        for row in rows:
            by_day.setdefault(row["ds"], []).append(row)
        return Group(*(make_metrics_table(day_rows, f"{table} {day or ''}") for day, day_rows in by_day.items()))

    print_result(rows, json, make_tables)


def _evaluate_night(
    conf: str, overrides: list[str] | None, ds: str | None, json: str | None, against: str | None, wait: bool
) -> None:
    """Run the step `evaluate` and print the metrics, with the differences from the run `against` if it is given."""
    from star_ctr.conf.contracts.run_id import is_reference
    from star_ctr.jobs.io.warehouse import WarehouseTables
    from star_ctr.jobs.tools import differences
    from star_ctr.workflows.nightly import choose_night, run_step
    from star_ctr.workflows.terminal import make_metrics_table, make_table

    if against and is_reference(against):
        raise UserError(
            f"--against {against}: `star-ctr reference` compares a night with its reference, and `star-ctr metrics` "
            "shows the differences; choose another run"
        )

    def action(settings: Settings, spark: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        night = choose_night(settings, spark, "evaluate", ds)
        rows = run_step(settings, spark, "evaluate", night, "requested")
        if against is None:
            return rows, []
        return rows, differences.compare_runs(WarehouseTables(settings, spark), settings, rows[0]["run_id"], against)

    _, (rows, differing) = with_spark("evaluate", conf, overrides, action, progress=False, writes=True, wait=wait)
    if against is None:
        print_result(rows, json, lambda: make_metrics_table(rows))
        return
    shown = make_table(differing, differences.COLUMNS[3:], f"difference from {against}")
    print_result({"metrics": rows, "differences": differing}, json, lambda: Group(make_metrics_table(rows), shown))


@app.command()
def metrics(
    conf: Conf,
    set: Set = None,
    metric: Annotated[Literal["gauc", "auc", "pcoc", "log_loss", "ece"], typer.Option(help="Metric to show.")] = "gauc",
    since: Annotated[
        dt.datetime | None,
        typer.Option(
            "--from",
            metavar="DAY",
            formats=_DAY,
            help="First day to show. Without --from and --to, the newest seven days are shown.",
        ),
    ] = None,
    until: Annotated[
        dt.datetime | None, typer.Option("--to", metavar="DAY", formats=_DAY, help="Last day to show.")
    ] = None,
    run_id: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Show the runs with the same settings and seed as this run. By default, those of the configuration.",
        ),
    ] = None,
    outcome: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Show a further outcome of `label.also` instead of the label. Only nights whose attribution windows "
            "have closed appear.",
        ),
    ] = None,
    json: Json = None,
) -> None:
    """Show a metric by domain and day, with its changes.

    Each value is followed by its change since the previous day. Green is better, red is worse; for PCOC, closer to 1 is
    better. A * marks days whose confidence interval does not contain the value of the previous day.

    With the section `reference`, a second table shows the differences from models trained from scratch, except for ECE
    and further outcomes.

    A ~ marks provisional values: some labels of the day are still open, because clicks may still arrive. A later night
    computes the final values, which are then shown instead. With --json, `provisional` keeps the value of the night.

    Reads tables without Spark, in about a second.

    For example:

        star-ctr metrics --conf mine.yaml --metric pcoc --from 2026-03-01
    """
    from rich.text import Text

    from star_ctr.conf.load import load
    from star_ctr.jobs.tools import metrics_by_day
    from star_ctr.jobs.tools.outcome_nights import explain_missing_nights
    from star_ctr.workflows.gaps_table import explain_missing_gaps, make_gaps_table
    from star_ctr.workflows.terminal import make_days_table

    first, last = (day.date().isoformat() if day else None for day in (since, until))
    settings = load(conf, set or [])
    rows = metrics_by_day.run(settings, metric, first, last, run_id, outcome, conf)
    notes = []
    if outcome is not None:
        notes.append(explain_missing_nights(settings, outcome, first or min(row["ds"] for row in rows), last, run_id))
    if settings.reference is not None:
        notes.append(explain_missing_gaps(metric, outcome))

    def make_tables() -> Group:
        shown = [Text(note) for note in notes if note]
        return Group(make_days_table(rows, metric, outcome), *make_gaps_table(rows, metric), *shown)

    print_result(rows, json, make_tables)
