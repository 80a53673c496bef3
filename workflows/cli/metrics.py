"""How good a model is: a night's metrics, those of scores from elsewhere, and day over day."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

import typer
from rich.console import Group

from star_ctr.conf.errors import UserError
from star_ctr.conf.settings.root import Settings
from star_ctr.workflows.cli.base import Conf, Day, Json, Set, Wait, app, print_result, with_spark

_DAY = ["%Y-%m-%d"]
_Column = typer.Option(metavar="COLUMN")
DEFAULTS = "demo"
"""Where scores from elsewhere are judged without a configuration: its `spark` and `evaluate` are the defaults."""


@app.command()
def evaluate(
    conf: Annotated[
        str | None, typer.Option("--conf", help="The data set; with --input only its `spark` and `evaluate` count.")
    ] = None,
    set: Set = None,
    ds: Day = None,
    json: Json = None,
    table: Annotated[
        str | None,
        typer.Option(
            "--input", metavar="TABLE", help="Scores from elsewhere instead: a Delta or Parquet table, or a .csv file."
        ),
    ] = None,
    user_col: Annotated[str | None, _Column] = None,
    domain_col: Annotated[str | None, _Column] = None,
    label_col: Annotated[str | None, _Column] = None,
    score_col: Annotated[str | None, _Column] = None,
    ds_col: Annotated[str | None, _Column] = None,
    against: Annotated[
        str | None, typer.Option(metavar="RUN", help="Also the differences to this run on the same rows.")
    ] = None,
    wait: Wait = False,
) -> None:
    """AUC, GAUC, PCOC and log loss with intervals, for each domain and overall: of a night's scores, or of --input's.

    --input needs --user-col, --label-col (0 or 1) and --score-col (in [0, 1]); with --domain-col it is judged by
    domain too, with --ds-col day by day.
    """
    columns = {"--user-col": user_col, "--label-col": label_col, "--score-col": score_col}
    if table is None:
        if any((*columns.values(), domain_col, ds_col)):
            raise UserError("--user-col, --domain-col, --label-col, --score-col and --ds-col go with --input TABLE")
        if conf is None:
            raise UserError("--conf C names the data set whose night to judge; --input TABLE judges other scores")
        _evaluate_night(conf, set, ds, json, against, wait)
        return
    missing = [option for option, column in columns.items() if column is None]
    if missing:
        raise UserError(f"--input {table}: name its columns by {', '.join(missing)} too")
    if ds or against:
        raise UserError("--ds and --against go with a night's scores, not with --input (its days: --ds-col)")
    assert user_col is not None
    assert label_col is not None
    assert score_col is not None
    from star_ctr.jobs.tools import evaluate_table

    scored = evaluate_table.ScoreColumns(table, user_col, label_col, score_col, domain_col, ds_col)
    _, rows = with_spark(
        "evaluate", conf or DEFAULTS, set, lambda s, spark: evaluate_table.run(spark, scored, s.evaluate)
    )

    def tables() -> Group:
        from star_ctr.workflows.terminal import make_metrics_table

        of_day: dict[str | None, list[dict[str, Any]]] = {}
        for row in rows:
            of_day.setdefault(row["ds"], []).append(row)
        return Group(*(make_metrics_table(of, f"{table} {day or ''}") for day, of in of_day.items()))

    print_result(rows, json, tables)


def _evaluate_night(
    conf: str, overrides: list[str] | None, ds: str | None, json: str | None, against: str | None, wait: bool
) -> None:
    """Judge a night's scores, and show how they differ from another run's where one is named."""
    from star_ctr.jobs.io.warehouse import WarehouseTables
    from star_ctr.jobs.tools import differences
    from star_ctr.workflows.nightly import choose_night, run_step
    from star_ctr.workflows.terminal import make_metrics_table, make_table

    def judge(settings: Settings, spark: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        night = choose_night(settings, spark, "evaluate", ds)
        rows = run_step(settings, spark, "evaluate", night, "asked for")
        if against is None:
            return rows, []
        return rows, differences.compare_runs(WarehouseTables(settings, spark), settings, rows[0]["run_id"], against)

    _, (rows, less) = with_spark("evaluate", conf, overrides, judge, progress=False, writes=True, wait=wait)
    if against is None:
        print_result(rows, json, lambda: make_metrics_table(rows))
        return
    shown = make_table(less, differences.COLUMNS[3:], f"less {against}")
    print_result({"metrics": rows, "differences": less}, json, lambda: Group(make_metrics_table(rows), shown))


@app.command()
def metrics(
    conf: Conf,
    set: Set = None,
    metric: Annotated[Literal["gauc", "auc", "pcoc", "log_loss"], typer.Option(help="Which one.")] = "gauc",
    since: Annotated[dt.datetime | None, typer.Option("--from", formats=_DAY, help="The first day to show.")] = None,
    until: Annotated[dt.datetime | None, typer.Option("--to", formats=_DAY, help="The last day to show.")] = None,
    run_id: Annotated[
        str | None, typer.Option(metavar="RUN", help="The days of the runs by the same settings as this one.")
    ] = None,
    json: Json = None,
) -> None:
    """A metric by domain, day over day: what changed against the day before, and whether the day's interval covers it.

    Of the runs by the configuration's settings and seed, the newest seven days if none are named. Needs no Spark.
    """
    from star_ctr.conf.load import load
    from star_ctr.jobs.tools import metrics_by_day
    from star_ctr.workflows.terminal import make_days_table

    first, last = (day.date().isoformat() if day else None for day in (since, until))
    rows = metrics_by_day.run(load(conf, set or []), metric, first, last, run_id)
    print_result(rows, json, lambda: make_days_table(rows, metric))
