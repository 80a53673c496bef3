"""The steps of a night, each a command of its own."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from star_ctr.conf.settings import Settings
from star_ctr.workflows.commands import Conf, Day, Json, Set, Wait, app, printed, with_spark


def _step(name: str, conf: str, overrides: list[str] | None, ds: str | None, wait: bool, **more: bool) -> Any:
    """Run a step of the night by its name, as the night itself would; returns what the job does."""
    from star_ctr.workflows.nightly import night_of, run_step

    def action(settings: Settings, spark: Any) -> Any:
        return run_step(settings, spark, name, night_of(settings, spark, name, ds), "asked for", **more)

    return with_spark(name, conf, overrides, action, progress=False, writes=True, wait=wait)[1]


def _simple(
    name: str, conf: str, overrides: list[str] | None, ds: str | None, json: str | None, wait: bool, **more: bool
) -> None:
    """Run a step and show the numbers that it returns."""
    from star_ctr.workflows.display import plain_table

    result = _step(name, conf, overrides, ds, wait, **more)
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
def ingest(conf: Conf, set: Set = None, ds: Day = None, json: Json = None, wait: Wait = False) -> None:
    """Daily logs into clean tables; duplicates are counted, bad rows kept in quarantine with a reason."""
    _simple("ingest", conf, set, ds, json, wait)


@app.command()
def features(conf: Conf, set: Set = None, ds: Day = None, json: Json = None, wait: Wait = False) -> None:
    """Join, label, and build sequences and statistics as known at each impression."""
    _simple("features", conf, set, ds, json, wait)


@app.command()
def split(conf: Conf, set: Set = None, ds: Day = None, json: Json = None, wait: Wait = False) -> None:
    """Encode the window's days as train and the day itself as test."""
    _simple("split", conf, set, ds, json, wait)


@app.command()
def train(
    conf: Conf,
    set: Set = None,
    ds: Day = None,
    json: Json = None,
    wait: Wait = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="only go on from a checkpoint; say what changed if it is of another run")
    ] = False,
) -> None:
    """Train the model on one night's split (--set trainer.processes=2 for torchrun) and export it.

    Broken off or killed, it goes on from its last checkpoint when it is run again with the same data and settings.
    """
    _simple("train", conf, set, ds, json, wait, resume=resume)


@app.command()
def score(conf: Conf, set: Set = None, ds: Day = None, json: Json = None, wait: Wait = False) -> None:
    """Score the test rows with the exported model, in Spark."""
    _simple("score", conf, set, ds, json, wait)


@app.command()
def evaluate(conf: Conf, set: Set = None, ds: Day = None, json: Json = None, wait: Wait = False) -> None:
    """AUC, GAUC, PCOC and log loss of a night's scores, for each domain and overall."""
    from star_ctr.workflows.display import metrics_table

    rows = _step("evaluate", conf, set, ds, wait)
    printed(rows, json, lambda: metrics_table(rows))


@app.command()
def gate(conf: Conf, set: Set = None, ds: Day = None, json: Json = None, wait: Wait = False) -> None:
    """Promote the night's model or hold it, by its metrics beside the serving model's; `star-ctr serving` tells why."""
    _simple("gate", conf, set, ds, json, wait)
