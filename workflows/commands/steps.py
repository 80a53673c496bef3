"""The steps of a night, each a command of its own."""

from __future__ import annotations

from typing import Annotated

import typer

from star_ctr.workflows.commands import Conf, Day, Json, Set, app, printed, with_spark


def _simple(name: str, conf: str, overrides: list[str] | None, ds: str | None, json: str | None, **more: bool) -> None:
    """Run a step of `jobs` by its name and show what it returns."""
    import importlib

    from star_ctr.workflows.display import plain_table

    module = importlib.import_module(f"star_ctr.jobs.{name}")
    _, result = with_spark(name, conf, overrides, lambda s, spark: module.run(s, spark, ds, **more))
    rows = [{"what": key, "value": value} for key, value in result.items()]
    printed(result, json, lambda: plain_table(rows, ["what", "value"]))


@app.command()
def check(conf: Conf, set: Set = None, ds: Day = None, json: Json = None) -> None:
    """Read the logs' headers and first rows and say what is wrong, before anything long starts."""
    from star_ctr.jobs import check as job
    from star_ctr.workflows.display import plain_table

    _, found = with_spark("check", conf, set, lambda s, spark: job.run(s, spark, ds))
    rows = [{**f, "problems": "\n".join(f["problems"]) or "none"} for f in found]
    printed(found, json, lambda: plain_table(rows, ["log", "rows", "problems", "path"]))
    if any(f["problems"] for f in found):
        raise typer.Exit(1)


@app.command()
def simulate(conf: Conf, set: Set = None, json: Json = None) -> None:
    """Make the simulated logs that the configuration's `simulate` section declares."""
    from star_ctr.jobs import simulate as job
    from star_ctr.workflows.display import plain_table

    _, result = with_spark("simulate", conf, set, job.run)
    rows = [{"log": key, "rows": value} for key, value in result.items()]
    printed(result, json, lambda: plain_table(rows, ["log", "rows"]))


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
