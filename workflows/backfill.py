"""Backfill: run the missing, failed and stale steps of consecutive nights, and keep the others.

For each night, oldest first, and for each step of the night:

1. Compare the last run of the step with its current inputs (see `staleness`).
2. If the step is done and its inputs have not changed, keep its results. Otherwise, run it.

The comparison is repeated before each step, because running one step can make later steps and nights stale. If a
backfill fails or is killed, run it again: it continues with the first step that is not done. A failure of a step
that no other step needs (`may_fail`) does not stop a backfill.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from pyspark.sql import SparkSession

from star_ctr.conf.contracts.dates import check_day, list_days, list_window_days
from star_ctr.conf.contracts.domains import OVERALL
from star_ctr.conf.contracts.pipeline import STEPS, list_steps
from star_ctr.conf.errors import DataError, UserError
from star_ctr.conf.recipe import apply_recipe
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.label_records import find_labels_of_other_nights
from star_ctr.jobs.io.newest_day import find_newest_day
from star_ctr.jobs.registry.decisions import find_serving
from star_ctr.jobs.registry.recipes import ensure_recipe
from star_ctr.workflows.nightly import CHOOSING_RECIPE, try_step
from star_ctr.workflows.staleness import Staleness
from star_ctr.workflows.status import read_staleness
from star_ctr.workflows.step_states import State
from star_ctr.workflows.terminal import stderr

_METRICS = {"AUC": "auc", "GAUC": "gauc", "PCOC": "pcoc", "log loss": "log_loss"}
KEPT = "kept"
"""Value of `action` for a step that was not run again, because it is done and its inputs have not changed."""


def run(settings: Settings, spark: SparkSession, first: str | None, last: str | None) -> list[dict[str, Any]]:
    """Run the nights from `first` to `last`, except for steps that are done and up to date.

    Stops at the first step that fails, unless no other step needs it.

    Args:
        settings: The settings.
        spark: The Spark session.
        first: The first night. By default, the oldest night that was ever run, or `last` if that is earlier.
        last: The last night. By default, the newest day of the logs.

    Returns:
        One row per night and step: `ds`, `step`, `action` (`run` or `kept`), and `reason` (of the run; empty if
            kept).

    Raises:
        UserError: `first` is after `last`.
        DataError: `first` or `last` is not a date.
    """
    report = []
    for ds in list_nights(settings, spark, first, last):
        stderr.print(f"[bold]{ds}[/]")
        for name in list_steps(settings):
            settings = apply_recipe(settings)
            if name == CHOOSING_RECIPE:
                # Without a recipe, runs with the paper's settings would count as done until a later step stores it.
                # Nights whose features were deleted cannot choose one.
                with suppress(DataError):
                    settings = ensure_recipe(settings, spark, ds)
            staleness = read_staleness(settings, busy=False)
            reason = explain_why_needed(staleness, ds, name)
            if reason is None:
                stderr.print(f"  {name:<10} {KEPT}: done and up to date", highlight=False)
            else:
                stderr.print(f"  {name:<10} {reason}", highlight=False)
                result = try_step(settings, spark, name, ds, reason, staleness)
                for line in _describe_result(name, result):
                    stderr.print(f"  {line}", highlight=False)
            report.append({"ds": ds, "step": name, "action": KEPT if reason is None else "run", "reason": reason or ""})
    return report


def _describe_result(name: str, result: Any) -> Iterator[str]:
    """Yield the metrics of all domains after `evaluate`, the decision after `gate`, and the gap after `reference`."""
    if name == "evaluate":
        for row in (row for row in result if row["domain"] == OVERALL):
            values = (f"{key} {row[column]:.4f}" for key, column in _METRICS.items() if row[column] is not None)
            is_open = row.get("open_labels") or 0
            note = f" (provisional: {is_open:,} labels are still open)" if is_open else ""
            yield f"metrics: {', '.join(values)}{note}"
    if name == "gate":
        yield f"gate: {result['outcome']}: {result['reason']}"
    if name == "reference" and result is not None:
        yield f"reference: {result['outcome']}: {result['reason']}"


def list_nights(settings: Settings, spark: SparkSession, first: str | None, last: str | None) -> list[str]:
    """Return the nights of a backfill, oldest first.

    Args:
        settings: The settings.
        spark: The Spark session.
        first: The first night; see `run` for the default.
        last: The last night; see `run` for the default.

    Returns:
        All days from the first to the last night.

    Raises:
        UserError: `first` is after `last`.
        DataError: `first` or `last` is not a date.
    """
    known = read_staleness(settings, busy=False).list_nights()
    end = check_day(last) if last else find_newest_day(settings, spark)
    start = check_day(first) if first else min([end, *known[:1]])
    if start > end:
        raise UserError(f"--from {start} is after --to {end}; swap the two days")
    return list_days(start, end)


def explain_why_needed(staleness: Staleness, ds: str, name: str) -> str | None:
    """Return why a backfill must run a step.

    A step whose results were removed runs again only if a later step of the same night needs them. A step that no other
    step needs is started, or retried after a failure, only for the newest night.

    Args:
        staleness: The states of all steps.
        ds: The night.
        name: The step.

    Returns:
        The reason; None if the step does not need to run.
    """
    state, reason = staleness.get_state(ds, name)
    serving = find_serving(staleness.decisions)
    # The gate makes no decision on a night that is older than the night of the serving model.
    is_before_serving = serving is not None and serving.ds > ds
    steps = list_steps(staleness.settings)
    removed = [step for step in steps if staleness.get_state(ds, step)[0] is State.REMOVED]
    if STEPS[name].may_fail and (
        removed or (state not in (State.DONE, State.STALE) and _has_later_night(staleness, ds))
    ):
        return None
    if state is State.REMOVED:
        later = [step for step in steps[steps.index(name) + 1 :] if not STEPS[step].may_fail]
        needed = [step for step in later if staleness.get_state(ds, step)[0] not in (State.DONE, State.REMOVED)]
        needed = [step for step in needed if not (is_before_serving and step in ("gate", "refit"))]
        return f"removed, but needed by {needed[0]}" if needed else None
    if is_before_serving and name in ("gate", "refit") and removed:
        return None
    if state is not State.DONE:
        return f"{state}: {reason}"
    if name == "features":
        # The windows of nights overlap. A later night overwrites features of this night's days, and may have read
        # later data, such as late clicks.
        writer = staleness.find_last_writer(ds)
        if writer != ds and staleness.get_state(ds, "split")[0] not in (State.DONE, State.REMOVED):
            return f"the night of {writer} overwrote the features of {ds}; split needs those of the night of {ds}"
        found = find_labels_of_other_nights(staleness.settings, ds, list_window_days(staleness.settings, ds))
        # Days without labels either have no impressions, or their step was killed and is not done.
        others = [night for night in found.values() if night]
        if others and staleness.get_state(ds, "split")[0] not in (State.DONE, State.REMOVED):
            return f"the night of {max(others)} overwrote labels; split needs those of the night of {ds}"
    return None


def _has_later_night(staleness: Staleness, ds: str) -> bool:
    """Return whether a later night has been evaluated."""
    return any(night > ds and staleness.get_entry(night, "evaluate") for night in staleness.list_nights())
