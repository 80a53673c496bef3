"""The command `star-ctr`: one subcommand a step, and the night as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

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


def with_spark(
    name: str, conf: str, overrides: list[str] | None, action: Callable[[Settings, Any], Any], progress: bool = True
) -> tuple[Settings, Any]:
    """Load the settings, start Spark and run a step with its progress shown; a user's error ends it in one message."""
    from star_ctr.jobs.session import start
    from star_ctr.workflows.display import step

    settings = load(conf, overrides or [])
    with step("spark", None):
        spark = start(settings, f"star-ctr {name}")
    if not progress:
        return settings, action(settings, spark)
    with step(name, spark.sparkContext):
        return settings, action(settings, spark)


def printed(result: Any, json: str | None, table: Callable[[], Any]) -> None:
    """Print a result as a table, and write it as JSON where that is asked for (then alone if to standard output)."""
    from star_ctr.workflows import display

    display.write_json(result, json)
    if json != "-":
        display.out.print(table())
