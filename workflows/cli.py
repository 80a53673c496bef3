"""The command `star-ctr`: one subcommand a step, and the night as a whole."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from star_ctr.conf.errors import UserError
from star_ctr.conf.load import load
from star_ctr.conf.settings import Settings

app = typer.Typer(
    name="star-ctr",
    help=__doc__
    + "\n\nA data set is one YAML file (--conf); `star-ctr nightly --conf conf/kuairand.yaml` runs everything.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Conf = Annotated[
    str, typer.Option("--conf", help="The data set: a YAML file, or the name of one that ships (kuairand, demo).")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key: --set trainer.seed=1 --set model.layers=[64,32]."),
]
Day = Annotated[
    str | None, typer.Option("--ds", metavar="DAY", help="The day, as in 2022-05-05; the newest if not given.")
]
Json = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Also write the result as JSON; - is standard output.")
]


def _run(
    name: str, conf: str, overrides: list[str] | None, action: Callable[[Settings, Any], Any], show: bool = True
) -> tuple[Settings, Any]:
    """Load the settings, start Spark and run a step with its progress shown; a user's error ends it in one message."""
    from star_ctr.jobs.session import start
    from star_ctr.workflows.display import step

    settings = load(conf, overrides or [])
    with step("spark", None):
        spark = start(settings, f"star-ctr {name}")
    if not show:
        return settings, action(settings, spark)
    with step(name, spark.sparkContext):
        return settings, action(settings, spark)


def _print(result: Any, json: str | None, table: Callable[[], Any]) -> None:
    from star_ctr.workflows import display

    display.write_json(result, json)
    if json != "-":
        display.out.print(table())


def _simple(name: str, conf: str, overrides: list[str] | None, ds: str | None, json: str | None, **more: bool) -> None:
    """Run a step of `jobs` by its name and show what it returns."""
    import importlib

    from star_ctr.workflows.display import plain_table

    module = importlib.import_module(f"star_ctr.jobs.{name}")
    _, result = _run(name, conf, overrides, lambda s, spark: module.run(s, spark, ds, **more))
    rows = [{"what": key, "value": value} for key, value in result.items()]
    _print(result, json, lambda: plain_table(rows, ["what", "value"]))


@app.command()
def check(conf: Conf, set: Set = None, ds: Day = None, json: Json = None) -> None:
    """Read the logs' headers and first rows and say what is wrong, before anything long starts."""
    from star_ctr.jobs import check as job
    from star_ctr.workflows.display import plain_table

    _, found = _run("check", conf, set, lambda s, spark: job.run(s, spark, ds))
    rows = [{**f, "problems": "\n".join(f["problems"]) or "none"} for f in found]
    _print(found, json, lambda: plain_table(rows, ["log", "rows", "problems", "path"]))
    if any(f["problems"] for f in found):
        raise typer.Exit(1)


@app.command()
def simulate(conf: Conf, set: Set = None, json: Json = None) -> None:
    """Make the simulated logs that the configuration's `simulate` section declares."""
    from star_ctr.jobs import simulate as job
    from star_ctr.workflows.display import plain_table

    _, result = _run("simulate", conf, set, job.run)
    rows = [{"log": key, "rows": value} for key, value in result.items()]
    _print(result, json, lambda: plain_table(rows, ["log", "rows"]))


@app.command()
def ingest(conf: Conf, set: Set = None, ds: Day = None, json: Json = None) -> None:
    """Daily logs into clean tables; duplicates are counted, bad rows kept in quarantine with a reason."""
    _simple("ingest", conf, set, ds, json)


@app.command()
def features(conf: Conf, set: Set = None, ds: Day = None, json: Json = None) -> None:
    """Join, label, and build sequences and statistics as known at each impression."""
    _simple("features", conf, set, ds, json)


@app.command()
def split(conf: Conf, set: Set = None, ds: Day = None, json: Json = None) -> None:
    """Encode the window's days as train and the day itself as test."""
    _simple("split", conf, set, ds, json)


@app.command()
def train(
    conf: Conf,
    set: Set = None,
    ds: Day = None,
    json: Json = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="only go on from a checkpoint; say what changed if it is of another run")
    ] = False,
) -> None:
    """Train the model on one night's split (--set trainer.processes=2 for torchrun) and export it.

    Broken off or killed, it goes on from its last checkpoint when it is run again with the same data and settings.
    """
    _simple("train", conf, set, ds, json, resume=resume)


@app.command()
def score(conf: Conf, set: Set = None, ds: Day = None, json: Json = None) -> None:
    """Score the test rows with the exported model, in Spark."""
    _simple("score", conf, set, ds, json)


@app.command()
def evaluate(conf: Conf, set: Set = None, ds: Day = None, json: Json = None) -> None:
    """AUC, GAUC, PCOC and log loss of a night's scores, for each domain and overall."""
    from star_ctr.jobs import evaluate as job
    from star_ctr.workflows.display import metrics_table

    _, rows = _run("evaluate", conf, set, lambda s, spark: job.run(s, spark, ds))
    _print(rows, json, lambda: metrics_table(rows))


@app.command()
def nightly(conf: Conf, set: Set = None, ds: Day = None, json: Json = None) -> None:
    """The whole night: ingest, features, split, train, score, evaluate; ends with the metrics by domain."""
    from star_ctr.conf.tables import Warehouse
    from star_ctr.workflows import nightly as night
    from star_ctr.workflows.display import err, metrics_table

    began = time.monotonic()
    settings, rows = _run("nightly", conf, set, lambda s, spark: night.run(s, spark, ds), show=False)
    _print(rows, json, lambda: metrics_table(rows))
    err.print(f"{time.monotonic() - began:.0f} s; the model: {Warehouse(settings.paths).model(rows[0]['run_id'])}")
    err.print(f"The tables: star-ctr tables --conf {conf} (--show metrics)", highlight=False)


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
    from star_ctr.workflows import compare as comparison
    from star_ctr.workflows import comparison_report, display

    plans = comparison.plans_of(models, nights, seeds)
    outside = comparison.outside_of(scores or [])
    settings, results = _run(
        "compare",
        conf,
        set,
        lambda s, spark: comparison.run(conf, set or [], spark, plans, outside, jobs),
        show=False,
    )
    command = "star-ctr " + shlex.join(sys.argv[1:])
    report = comparison_report.write(results, command, Path(out or f"build/compare/{settings.name}"))
    _print(comparison_report.as_json(results, command), json, lambda: display.comparison_table(results.rows))
    display.err.print(f"The report: {report}", highlight=False)


@app.command()
def tables(
    conf: Conf,
    set: Set = None,
    show: Annotated[str | None, typer.Option(metavar="TABLE", help="Show rows of this table.")] = None,
    where: Annotated[
        str | None, typer.Option(metavar="SQL", help="Those of them: --where \"domain = 'home'\".")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="So many rows at most.")] = 10,
    json: Json = None,
) -> None:
    """Every table with path, version, rows and what it holds; with --show the first rows of one."""
    from star_ctr.jobs import tables as job
    from star_ctr.workflows.display import plain_table, records

    if show is not None:
        _, rows = _run("tables", conf, set, lambda s, spark: job.show(s, spark, show, where, limit))
        _print(rows, json, lambda: records(rows))
        return
    settings, rows = _run("tables", conf, set, job.run)
    _print(rows, json, lambda: plain_table(rows, ["table", "version", "rows", "holds"], settings.paths.warehouse))


def main() -> None:
    """Run the command; an error that a user can mend is printed without a traceback."""
    try:
        app()
    except UserError as error:
        sys.stderr.write(f"star-ctr: {error}\n")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
