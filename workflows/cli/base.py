"""The command `star-ctr`: one subcommand a step, and the night as a whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Annotated, Any

import typer

from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings

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
AttemptNumber = Annotated[
    int | None, typer.Option("--attempt", metavar="N", help="Attempt of the run; the newest by default.")
]
Wait = Annotated[
    bool, typer.Option("--wait", help="Where another process writes to the warehouse, wait until it is done.")
]


def with_spark(
    name: str,
    conf: str,
    overrides: list[str] | None,
    action: Callable[[Settings, Any], Any],
    *,
    progress: bool = True,
    writes: bool = False,
    wait: bool = False,
) -> tuple[Settings, Any]:
    """Load the settings, start Spark and run an action on them, with its `progress` shown unless it shows its own.

    What `writes` to the warehouse has it for itself: where another process has it, it is refused, or waits.
    """
    from star_ctr.jobs.io.session import start
    from star_ctr.workflows.lease import hold_lease
    from star_ctr.workflows.terminal import show_step

    settings = load(conf, overrides or [])
    with hold_lease(settings, wait) if writes else nullcontext():
        with show_step("spark", None):
            spark = start(settings, f"star-ctr {name}")
        with show_step(name, spark.sparkContext) if progress else nullcontext():
            return settings, action(settings, spark)


def print_result(result: Any, json: str | None, table: Callable[[], Any]) -> None:
    """Print a result as a table, unless it has no rows, and write it as JSON to the target, if any.

    If the target is standard output, only the JSON is printed.
    """
    from star_ctr.workflows import terminal

    terminal.write_json(result, json)
    if json == "-":
        return
    shown = table()
    if getattr(shown, "row_count", 1):
        terminal.out.print(shown)


def print_values(result: Mapping[str, Any], json: str | None, shown: Mapping[str, Any] | None = None) -> None:
    """Print the values of a result below one another (or what is `shown` in their stead), and write it as JSON."""
    from star_ctr.workflows.terminal import make_table

    rows = [{"what": key, "value": value} for key, value in (shown or result).items()]
    print_result(result, json, lambda: make_table(rows, ["what", "value"]))
