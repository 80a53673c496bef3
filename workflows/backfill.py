"""Backfill and catch-up: nights one after the other, of which what is done and still valid is left as it is."""

from __future__ import annotations

from typing import Any

from pyspark.sql import SparkSession

from star_ctr.conf.contracts.dates import check_day, list_days
from star_ctr.conf.contracts.pipeline import list_steps
from star_ctr.conf.errors import UserError
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.ingest import find_newest_day
from star_ctr.jobs.registry.decisions import find_serving
from star_ctr.workflows.nightly import run_step
from star_ctr.workflows.staleness import Staleness, State
from star_ctr.workflows.status import read_staleness
from star_ctr.workflows.terminal import err

KEPT = "kept"
"""What a backfill did with a step that was done and still valid."""


def run(settings: Settings, spark: SparkSession, first: str | None, last: str | None) -> list[dict[str, Any]]:
    """Run the nights from `first` to `last`; returns, for each step of each, what was done and why.

    `last`: the newest day of the logs if none is given; `first`: then the oldest night that was ever run, so that all
    are caught up with, or `last` where none was. A step that fails ends it; run again, it goes on from there.
    """
    report = []
    for ds in list_nights(settings, spark, first, last):
        err.print(f"[bold]{ds}[/]")
        for name in list_steps(settings):
            standing = read_staleness(settings, busy=False)
            why = explain(standing, ds, name)
            if why is None:
                err.print(f"  {name:<10} {KEPT}: done and still valid", highlight=False)
            else:
                err.print(f"  {name:<10} {why}", highlight=False)
                run_step(settings, spark, name, ds, why, standing)
            report.append({"ds": ds, "step": name, "did": KEPT if why is None else "run", "why": why or ""})
    return report


def list_nights(settings: Settings, spark: SparkSession, first: str | None, last: str | None) -> list[str]:
    """The nights of a backfill, oldest first."""
    known = read_staleness(settings, busy=False).nights()
    end = check_day(last) if last else find_newest_day(settings, spark)
    start = check_day(first) if first else min([end, *known[:1]])
    if start > end:
        raise UserError(f"--from {start} is after --to {end}; give the older day first")
    return list_days(start, end)


def explain(standing: Staleness, ds: str, name: str) -> str | None:
    """Why a step of a night has to be run; None where it is done and still valid."""
    state, why = standing.state(ds, name)
    now = find_serving(standing.decisions)
    is_history = now is not None and now.ds > ds  # a gate decides nothing then
    if state is State.REMOVED:
        # Run it again only if a later step of the night needs its results.
        later = list_steps(standing.settings)[list_steps(standing.settings).index(name) + 1 :]
        needed = [step for step in later if standing.state(ds, step)[0] not in (State.DONE, State.REMOVED)]
        needed = [step for step in needed if not (is_history and step in ("gate", "refit"))]
        return f"removed, but needed by {needed[0]}" if needed else None
    removed = (step for step in list_steps(standing.settings) if standing.state(ds, step)[0] is State.REMOVED)
    if is_history and name in ("gate", "refit") and next(removed, None):
        return None
    if state is not State.DONE:
        return f"{state}: {why}"
    if name == "features":
        # Other nights write this night's days too, and know more of them (a click that came later, say).
        other = standing.find_last_writer(ds)
        if other != ds and standing.state(ds, "split")[0] not in (State.DONE, State.REMOVED):
            return f"night {other} has written these days since, and split is to read them"
    return None
