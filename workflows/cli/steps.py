"""The steps of a night, each a command of its own."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from star_ctr.conf.errors import UserError
from star_ctr.conf.settings.root import Settings
from star_ctr.workflows.cli.base import Conf, Day, Json, Set, Wait, app, print_result, print_values, with_spark


def _step(name: str, conf: str, overrides: list[str] | None, ds: str | None, wait: bool) -> Any:
    """Run a step of the night by its name, as the night itself would; returns what the job does."""
    from star_ctr.workflows.nightly import choose_night, run_step

    def action(settings: Settings, spark: Any) -> Any:
        return run_step(settings, spark, name, choose_night(settings, spark, name, ds), "asked for")

    return with_spark(name, conf, overrides, action, progress=False, writes=True, wait=wait)[1]


def _run_simple(
    name: str, conf: str, overrides: list[str] | None, ds: str | None, json: str | None, wait: bool
) -> None:
    """Run a step and show the numbers that it returns."""
    print_values(_step(name, conf, overrides, ds, wait), json)


@app.command()
def check(conf: Conf, set: Set = None, ds: Day = None, json: Json = None) -> None:
    """Read the logs' headers and first rows and say what is wrong, before anything long starts."""
    from star_ctr.jobs.tools import check as job
    from star_ctr.workflows.terminal import make_table

    _, found = with_spark("check", conf, set, lambda s, spark: job.run(s, spark, ds))
    rows = [{**f, "problems": "\n".join(f["problems"]) or "none"} for f in found]
    print_result(found, json, lambda: make_table(rows, ["log", "rows", "problems", "path"]))
    if any(f["problems"] for f in found):
        raise typer.Exit(1)


@app.command()
def simulate(conf: Conf, set: Set = None, json: Json = None) -> None:
    """Make the simulated logs that the configuration's `simulate` section declares."""
    from star_ctr.jobs.tools import simulate as job
    from star_ctr.workflows.terminal import make_table

    _, result = with_spark("simulate", conf, set, job.run)
    rows = [{"log": key, "rows": value} for key, value in result.items()]
    print_result(result, json, lambda: make_table(rows, ["log", "rows"]))


@app.command()
def ingest(conf: Conf, set: Set = None, ds: Day = None, json: Json = None, wait: Wait = False) -> None:
    """Daily logs into clean tables; duplicates are counted, bad rows kept in quarantine with a reason."""
    _run_simple("ingest", conf, set, ds, json, wait)


@app.command()
def features(conf: Conf, set: Set = None, ds: Day = None, json: Json = None, wait: Wait = False) -> None:
    """Join, label, and build sequences and statistics as known at each impression."""
    _run_simple("features", conf, set, ds, json, wait)


@app.command()
def split(conf: Conf, set: Set = None, ds: Day = None, json: Json = None, wait: Wait = False) -> None:
    """Encode the window's days as train and the day itself as test."""
    _run_simple("split", conf, set, ds, json, wait)


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
    more = ["trainer.checkpoint.resume=require"] if resume else []
    _run_simple("train", conf, [*(set or []), *more], ds, json, wait)


@app.command()
def score(
    conf: Conf,
    set: Set = None,
    ds: Day = None,
    json: Json = None,
    wait: Wait = False,
    run_id: Annotated[str | None, typer.Option(help="Bulk: the run whose model scores.")] = None,
    attempt: Annotated[
        int | None,
        typer.Option(metavar="N", help="Bulk: the attempt; the serving or the newest one if not given."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--input", metavar="TABLE", help="Bulk: a Delta or Parquet table of the impression log's columns."
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--output", metavar="TABLE", help="Bulk: the Delta table of scores, replaced at once.")
    ] = None,
    where: Annotated[str | None, typer.Option(metavar="SQL", help="Bulk: those rows of the input alone.")] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="Bulk: columns of the input that go along into the output.")
    ] = None,
    encoded: Annotated[
        bool, typer.Option("--encoded", help="Bulk: the input has ints, floats and domain_id, as `split` has.")
    ] = False,
    unknown_domain: Annotated[
        Literal["other", "drop", "fail"] | None,
        typer.Option(
            help="Bulk: rows of domains that the model does not know are scored as `other`, left out and counted, or "
            "an error. Not given: what the run's nights do (domains.unknown: `bucket`, its default, is other).",
        ),
    ] = None,
) -> None:
    """Score a night's test rows with its exported model; with --input any table, with the model of any run.

    docs/scoring.md tells of the latter.
    """
    bulk = {
        "--run-id": run_id, "--attempt": attempt, "--output": target, "--where": where, "--columns": columns,
        "--encoded": encoded or None,
        "--unknown-domain": unknown_domain,
    }  # fmt: skip
    if source is None:
        stray = [option for option, value in bulk.items() if value is not None]
        if stray:
            raise UserError(f"{', '.join(stray)}: of bulk scoring alone, which needs --input, --output and --run-id")
        _run_simple("score", conf, set, ds, json, wait)
        return
    if run_id is None or target is None or ds is not None:
        raise UserError("--input: bulk scoring needs --run-id and --output, and takes no --ds")
    from star_ctr.jobs.tools import batch_score as job

    names = [name.strip() for name in columns.split(",")] if columns else []
    _, result = with_spark(
        "score", conf, set,
        lambda s, spark: job.run(
            s, spark, run_id=run_id, source=source, target=target, where=where, columns=names, encoded=encoded,
            unknown_domain=unknown_domain, attempt=attempt,
        ),
    )  # fmt: skip
    shown = {key: value for key, value in result.items() if key != "reasons"}
    print_values(result, json, shown | {f"left out: {reason}": n for reason, n in result["reasons"].items()})


@app.command()
def gate(conf: Conf, set: Set = None, ds: Day = None, json: Json = None, wait: Wait = False) -> None:
    """Promote the night's model or hold it, by its metrics beside the serving model's; `star-ctr serving` tells why."""
    _run_simple("gate", conf, set, ds, json, wait)


@app.command()
def refit(conf: Conf, set: Set = None, ds: Day = None, json: Json = None, wait: Wait = False) -> None:
    """Train the night's promoted model anew, with its test day among the training days, where gate.publish is refit."""
    from star_ctr.conf.load import load
    from star_ctr.jobs.refit import explain_not_needed

    # Schedules call this every night; without Spark it is done in a second where there is nothing to do.
    if reason := explain_not_needed(load(conf, set or [])):
        print_values({"outcome": "nothing to refit", "reason": reason}, json)
        return
    _run_simple("refit", conf, set, ds, json, wait)
