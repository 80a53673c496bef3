"""The application `star-ctr`, the options that several commands share, and helpers to run and print."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Annotated, Any, Literal

import typer
from typer.models import CommandInfo

from star_ctr import __version__
from star_ctr.conf.contracts.pipeline import STEPS
from star_ctr.conf.load import load
from star_ctr.conf.recipe import apply_recipe
from star_ctr.conf.settings.root import Settings
from star_ctr.workflows.run_log import configure_terminal

# `\b` keeps click from rewrapping the lines of a paragraph.
_HELP = """Train, evaluate and serve CTR models for several domains, every night.

A data set is one YAML file (--conf) that declares its logs, features, label, model and warehouse.

A night is one pass of the pipeline for day D: it trains a model on the days before D, evaluates it on D, and decides
whether to serve it. A run is one configuration and seed within a night; its run_id names it. The steps of a night are
commands, too, in this order: ingest, features, split, train, score, evaluate, gate, refit, reference.

Try it on simulated logs (the configuration `demo` is part of star-ctr):

\b
  star-ctr simulate --conf demo         generate the logs
  star-ctr nightly  --conf demo         run the night of the newest day

Run it on your own logs (docs/new-data-set.md describes the YAML file):

\b
  star-ctr init     --logs /data/mine   draft mine.yaml from the logs
  star-ctr check    --conf mine.yaml    check the configuration and the logs
  star-ctr backfill --conf mine.yaml    run what is missing, failed or stale
  star-ctr status   --conf mine.yaml    show the state of each step of recent nights
  star-ctr report   --conf mine.yaml    write the results of a night as a page

star-ctr COMMAND --help describes a command and its options.
"""

app = typer.Typer(
    name="star-ctr",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(is_requested: bool) -> None:
    if is_requested:
        typer.echo(f"star-ctr {__version__}")
        raise typer.Exit


@app.callback(help=_HELP)
def _configure(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        typer.Option(
            "--log-level",
            envvar="STAR_CTR_LOG_LEVEL",
            case_sensitive=False,
            help="Lowest level of log messages to show. Log files in the warehouse always contain all levels.",
        ),
    ] = "warning",
) -> None:
    configure_terminal(log_level)


Conf = Annotated[
    str,
    typer.Option(
        "--conf",
        metavar="FILE",
        help="YAML file of the data set, or the name of a configuration that is part of star-ctr (kuairand, demo).",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a setting, for example trainer.seed=1 or model.layers=[64,32]. A mapping such as "
        "trainer.optimizer={lr: 0.01} replaces the whole group. May be repeated.",
    ),
]
Day = Annotated[
    str | None,
    typer.Option(
        "--ds", metavar="DAY", help="Day of the night, for example 2022-05-05. By default, the newest available day."
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Number of parallel training runs. By default, the number of cores."),
]
TestDays = Annotated[
    str | None,
    typer.Option(
        metavar="DAYS",
        help="Test days, for example 2022-05-04,2022-05-05. By default, the newest complete day of the logs.",
    ),
]
Json = Annotated[
    str | None,
    typer.Option(
        "--json", metavar="FILE", help="Also write the result as JSON to this file, or - for standard output."
    ),
]
AttemptNumber = Annotated[
    int | None, typer.Option("--attempt", metavar="N", help="Attempt of the run. By default, the newest published one.")
]
Wait = Annotated[
    bool, typer.Option("--wait", help="Wait for another process that writes to the warehouse, instead of failing.")
]


def order_steps(commands: list[CommandInfo]) -> None:
    """Sort commands in place, so that --help lists the steps of a night together and in their order."""
    names, steps = [command.callback.__name__ if command.callback else "" for command in commands], list(STEPS)
    first = names.index(steps[0])
    order = {n: (first, steps.index(n)) if n in steps else (k, -1) for k, n in enumerate(names)}
    commands[:] = [command for _, command in sorted(zip(names, commands, strict=True), key=lambda pair: order[pair[0]])]


def with_spark(
    name: str,
    conf: str,
    overrides: list[str] | None,
    action: Callable[[Settings, Any], Any],
    *,
    progress: bool = True,
    writes: bool = False,
    wait: bool = False,
    with_recipe: bool = True,
) -> tuple[Settings, Any]:
    """Load the settings, start Spark and run an action.

    Args:
        name: Name of the command.
        conf: YAML file of the data set, or the name of a configuration of this package.
        overrides: `KEY=VALUE` overrides of settings.
        action: Called with the settings and the Spark session.
        progress: Whether to show the progress of the action; False if it shows its own.
        writes: Whether the action writes to the warehouse and therefore needs the lease.
        wait: Whether to wait for another process that holds the lease, instead of failing.
        with_recipe: Whether to apply the warehouse's recipe to the settings of the action.

    Returns:
        The settings, and the result of the action. The settings include a recipe that the action has stored.

    Raises:
        UserError: Another process holds the lease, and `wait` is false.
    """
    from star_ctr.workflows.spark_session import open_session
    from star_ctr.workflows.terminal import show_step

    given = load(conf, overrides or [], with_recipe=False)
    with (
        open_session(given, name, writes=writes, wait=wait) as spark,
        show_step(name, spark.sparkContext) if progress else nullcontext(),
    ):
        # With the lease, because another process may have stored or renewed the recipe before.
        result = action(apply_recipe(given) if with_recipe else given, spark)
    return apply_recipe(given), result


def print_result(result: Any, json: str | None, table: Callable[[], Any]) -> None:
    """Print a result as a table and write it as JSON.

    Args:
        result: The result to write as JSON.
        json: Target of the JSON; `-` for standard output (then the table is not printed), None to write no JSON.
        table: Called to make the table, which is printed unless it has no rows.
    """
    from star_ctr.workflows import terminal

    terminal.print_json(result, json)
    if json == "-":
        return
    shown = table()
    if getattr(shown, "row_count", 1):
        terminal.stdout.print(shown)


def print_values(result: Mapping[str, Any], json: str | None, shown: Mapping[str, Any] | None = None) -> None:
    """Print a result as a two-column table (key, value), and write it as JSON.

    With `json="-"`, only the JSON is printed.

    Args:
        result: The result to write as JSON.
        json: Target of the JSON; see `print_result`.
        shown: The values to print; those of `result` by default.
    """
    from star_ctr.workflows.terminal import make_table

    rows = [{"what": key, "value": value} for key, value in (shown or result).items()]
    print_result(result, json, lambda: make_table(rows, ["what", "value"]))
