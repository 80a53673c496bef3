"""Command that checks the configuration and the logs of a data set: `check`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from star_ctr.conf.contracts.dates import BEFORE_FIRST_DAY, NO_DAY
from star_ctr.conf.settings.root import Settings
from star_ctr.workflows.cli.base import Conf, Day, Json, Set, app, print_result, with_spark

_MAX_DOMAINS = 20


@app.command()
def check(
    conf: Conf,
    set: Set = None,
    ds: Day = None,
    full: Annotated[
        bool, typer.Option("--full", help="Read all rows of all days instead of a sample of the newest days.")
    ] = False,
    json: Json = None,
) -> None:
    """Check the configuration and the logs for problems.

    Reads the schemas of all files, and a sample of the newest days. Shows each column with its type, its use, its
    missing and distinct values and examples; the domains with their rows and click rates; problems that would stop a
    night; the recipe; and warnings: quarantined rows, ids that do not match, and what changed on the newest day. Writes
    nothing. Run it before the first night of a new data set.

    Exits with code 1 if there are problems.

    For example:

        star-ctr check --conf mine.yaml
    """
    from star_ctr.jobs.tools import check as job

    settings, found = with_spark("check", conf, set, lambda s, spark: job.run(s, spark, ds, full))
    print_result(found, json, lambda: Group(*_render(settings, found, conf)))
    if any(f["problems"] for f in found):
        raise typer.Exit(1)


def _render(settings: Settings, found: Sequence[dict[str, Any]], conf: str) -> Iterator[RenderableType]:
    """Yield the parts of the report: the logs, the recipe, then problems, warnings and what to do next."""
    from star_ctr.workflows.terminal import make_table

    for log in found:
        dated = [day for day in log["days"] if day not in (NO_DAY, BEFORE_FIRST_DAY)]
        days = f", {dated[0]} to {dated[-1]}" if dated else ""
        part = "" if log["is_whole"] else " (sample; --full reads all rows)"
        yield Text(f"{log['log']}: {log['path']}", style="bold")
        yield Text(f"{log['files']:,} file{'' if log['files'] == 1 else 's'}; checked {log['rows']:,} rows{part}{days}")
        if log["columns"]:
            rows = [
                {**c, "examples": ", ".join(c.get("examples", [])), "nulls": _format_share(c)} for c in log["columns"]
            ]
            yield make_table(rows, ["column", "type", "use", "nulls", "distinct", "examples"])
        if log["domains"]:
            yield make_table(log["domains"][:_MAX_DOMAINS], ["domain", "rows", "click rate"])
            if len(log["domains"]) > _MAX_DOMAINS:
                yield Text(f"and {len(log['domains']) - _MAX_DOMAINS} more domains")
    for line in (f"{log['log']}: {note}" for log in found for note in log["notes"]):
        yield Text(line)
    yield from map(Text, _list_recipe_lines(settings, found, conf))
    for title, key, style in (("Problems", "problems", "red"), ("Warnings", "warnings", "yellow")):
        lines = [f"{log['log']}: {line}" for log in found for line in log[key]]
        if lines:
            yield Text(f"{title} ({len(lines)})", style=f"bold {style}")
            yield from (Text(f"  {number}. {line}") for number, line in enumerate(lines, start=1))
    if any(log["problems"] for log in found):
        yield Text("A night would stop. Fix the problems, and run the check again.")
    else:
        yield Text(f"No problems. Run a night: star-ctr nightly --conf {conf}")


def _list_recipe_lines(settings: Settings, found: Sequence[dict[str, Any]], conf: str) -> Iterator[str]:
    """Yield lines about the stored recipe, or about the one that the first night is likely to choose."""
    from star_ctr.conf.recipe import read_recipe
    from star_ctr.jobs.registry.recipes import describe_size, estimate_training_size, format_settings
    from star_ctr.model.recipe_rule import choose_settings

    if settings.preset == "paper":
        return
    recipe = read_recipe(settings.paths)
    if recipe is not None:
        yield f"recipe: chosen for {describe_size(recipe.size)}; to show it, run `star-ctr recipe --conf {conf}`"
    elif (size := estimate_training_size(settings, found)) is not None:
        yield f"estimated recipe of the first night, for {describe_size(size)}:"
        yield f"  {format_settings(choose_settings(size))}"
    else:
        yield "recipe: not estimated, because the sample does not cover whole days; use --full"


def _format_share(column: dict[str, Any]) -> str:
    return f"{column['nulls']:.1%}" if "nulls" in column else "–"
