"""Commands for whole nights: `nightly` (one night), `backfill` (several nights) and `status`."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from star_ctr.conf.settings.root import Settings
from star_ctr.workflows.cli.base import Conf, Day, Json, Set, Wait, app, print_result, with_spark

From = Annotated[
    str | None,
    typer.Option("--from", metavar="DAY", help="First night. By default, the oldest night that was ever run."),
]
To = Annotated[
    str | None, typer.Option("--to", metavar="DAY", help="Last night. By default, the newest day of the logs.")
]


@contextmanager
def _suggest_backfill(conf: str, overrides: list[str] | None, first: str | None, last: str | None) -> Iterator[None]:
    """If a step fails or is interrupted, add to the error how to continue."""
    from star_ctr.workflows.terminal import stderr

    try:
        yield
    except BaseException as error:
        if not getattr(error, "__notes__", None):  # no step has run
            raise
        parts = ["star-ctr", "backfill", "--conf", conf]
        parts += [part for override in overrides or [] for part in ("--set", override)]
        parts += ["--from", first] if first else []
        parts += ["--to", last] if last else []
        error.add_note(f"To continue: {shlex.join(parts)}")
        if isinstance(error, KeyboardInterrupt):  # ends the command without a message
            stderr.print("\n".join(error.__notes__), highlight=False, soft_wrap=True)
        raise


@app.command()
def nightly(conf: Conf, set: Set = None, ds: Day = None, json: Json = None, wait: Wait = False) -> None:
    """Run all steps of a night.

    Runs ingest, features, split, train, score, evaluate, gate and, if the settings enable them, refit or reference.
    Prints the metrics per domain and the decision of the gate.

    You can run a night again: each step replaces what it wrote before, and `ingest` and `features` skip the days that
    are up to date. To run only steps that are missing, failed or stale, use `star-ctr backfill`.

    For example:

        star-ctr nightly --conf mine.yaml --ds 2026-03-04
    """
    from star_ctr.conf.contracts.catalog import Warehouse
    from star_ctr.jobs.registry.attempts import get_published_attempt
    from star_ctr.workflows import nightly as night
    from star_ctr.workflows.terminal import make_metrics_table, stderr

    start = time.monotonic()
    with _suggest_backfill(conf, set, ds, ds):
        settings, result = with_spark(
            "nightly", conf, set, lambda s, spark: night.run(s, spark, ds), progress=False, writes=True, wait=wait
        )
    rows, gate = result["metrics"], result["gate"]
    print_result(rows, json, lambda: make_metrics_table(rows))
    stderr.print(f"gate: {gate['outcome']}: {gate['reason']}", highlight=False)
    if reference := result["reference"]:
        stderr.print(f"reference: {reference['outcome']}: {reference['reason']}", highlight=False)
    folder = get_published_attempt(Warehouse(settings.paths), gate["run_id"], gate["attempt"]).folder
    stderr.print(f"Finished in {time.monotonic() - start:.0f} s\nModel: {folder}", highlight=False)
    stderr.print(f"To see the report: {_format_report_command(conf, set, gate['run_id'][:10])}", highlight=False)
    stderr.print(f"To list the tables: star-ctr tables --conf {conf}", highlight=False)


@app.command()
def backfill(
    conf: Conf, set: Set = None, first: From = None, last: To = None, json: Json = None, wait: Wait = False
) -> None:
    """Run the missing, failed and stale steps of several nights.

    Runs the nights from --from to --to, oldest first. Keeps a step if it is done and its inputs have not changed:
    settings, the code that it imports, and the data that it reads. Without --from and --to, it catches up on all nights
    from the oldest one that was ever run to the newest day of the logs.

    It stops at the first step that fails, except for `reference`. If it fails or is killed, run the same command again:
    it continues there. `star-ctr status` shows which steps are not done, and why. docs/nights.md has the details.

    For example:

        star-ctr backfill --conf mine.yaml --from 2026-03-01 --to 2026-03-05
    """
    from star_ctr.workflows import backfill as backfill_nights
    from star_ctr.workflows.terminal import make_table, stderr

    def action(settings: Settings, spark: Any) -> Any:
        return backfill_nights.run(settings, spark, first, last)

    with _suggest_backfill(conf, set, first, last):
        _, report = with_spark("backfill", conf, set, action, progress=False, writes=True, wait=wait)
    print_result(report, json, lambda: make_table(report, ["ds", "step", "action", "reason"]))
    stderr.print(f"To see the report: {_format_report_command(conf, set, last)}", highlight=False)


def _format_report_command(conf: str, overrides: list[str] | None, ds: str | None) -> str:
    """Return the command that shows the report of the run with these settings."""
    from star_ctr.conf.redaction import format_command

    settings = [part for override in overrides or [] for part in ("--set", override)]
    return format_command(["star-ctr", "report", "--conf", conf, *settings, *(["--ds", ds] if ds else [])])


@app.command()
def status(
    conf: Conf,
    set: Set = None,
    first: From = None,
    last: To = None,
    json: Json = None,
    nights: Annotated[int, typer.Option("--last", min=1, metavar="N", help="Show only the newest N nights.")] = 14,
) -> None:
    """Show the state of each step of recent nights.

    A step is done, stale (its inputs have changed since it ran), running, failed, missing (it has not run yet), or
    removed (`star-ctr clean` deleted its results). Below the table are the reasons, and then the days that `ingest` and
    `features` would compute.

    Needs no Spark and takes a second or two. `star-ctr backfill` runs the steps that are missing, failed or stale.

    For example:

        star-ctr status --conf mine.yaml --last 7
    """
    from star_ctr.conf.load import load
    from star_ctr.workflows import status as night_status
    from star_ctr.workflows.terminal import make_status_table

    rows = night_status.run(load(conf, set or []), first, last, nights)
    print_result(rows, json, lambda: make_status_table(rows))
