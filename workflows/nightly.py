"""Nightly run: run the steps ingest, features, split, train, score, evaluate and gate, then any refit or reference.

The night of day D trains the model on the days of the window before D, and evaluates it on D. D is the newest complete
day of the logs by default. Each step replaces what it wrote before, so a night that was killed can simply be run
again. The journal records each step that runs, with its inputs and how it ended.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any

from pyspark.sql import SparkSession

from star_ctr.conf.contracts.dates import check_day
from star_ctr.conf.contracts.pipeline import STEPS, list_steps
from star_ctr.conf.errors import UserError
from star_ctr.conf.recipe import apply_recipe
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs import ingest
from star_ctr.jobs.io import table_hashes
from star_ctr.jobs.io.external_errors import format_error
from star_ctr.jobs.io.newest_day import find_newest_day
from star_ctr.jobs.io.table_catalog import create_database, register_tables
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.quality.day_checks import describe_quarantine, describe_unread_days
from star_ctr.jobs.quality.jump_list import describe_jumps
from star_ctr.jobs.quality.match_rates import describe_matches
from star_ctr.jobs.registry.recipes import describe_recipe, ensure_recipe
from star_ctr.model.training.callbacks.checkpoints_and_sigterm import StoppedError
from star_ctr.workflows.interrupts import raise_interrupts
from star_ctr.workflows.journal import Journal
from star_ctr.workflows.staleness import Staleness
from star_ctr.workflows.status import read_staleness
from star_ctr.workflows.step_states import STATE_TEXTS, State
from star_ctr.workflows.terminal import show_step, stderr

_logger = logging.getLogger(__name__)

ACTIONS: dict[str, Callable[..., Any]] = {name: importlib.import_module(f"star_ctr.jobs.{name}").run for name in STEPS}
"""The function that runs each step, by the name of the step."""
CHOOSING_RECIPE = "split"
"""The step that chooses the recipe if there is none. Neither its id nor its inputs depend on the recipe."""
_DESCRIPTIONS: dict[str, tuple[Callable[[Settings, str], list[str]], ...]] = {
    "ingest": (describe_quarantine, describe_unread_days),
    "features": (describe_matches, describe_jumps),
    "split": (describe_recipe,),
}
"""Functions that return lines to print after a step."""


def run(settings: Settings, spark: SparkSession, ds: str | None = None) -> dict[str, Any]:
    """Run all steps of a night.

    Args:
        settings: The settings.
        spark: The Spark session.
        ds: The night. By default, the newest complete day of the logs.

    Returns:
        The results of four steps: `metrics` (rows per domain), `gate` (the decision), `refit` (None if the settings do
        not enable it) and `reference` (None if the settings do not enable it, or if it failed).

    Raises:
        DataError: The impression log has no file of day `ds`.
    """
    day = choose_night(settings, spark, "ingest", ds)
    stderr.print(f"night of {day}", highlight=False)
    results = {name: try_step(settings, spark, name, day, "requested") for name in list_steps(settings)}
    optional = {name: results.get(name) for name in ("refit", "reference")}
    return {"metrics": results["evaluate"], "gate": results["gate"], **optional}


def try_step(
    settings: Settings, spark: SparkSession, name: str, ds: str, reason: str, staleness: Staleness | None = None
) -> Any:
    """Run a step like `run_step`; if a step fails that no other step needs, only log a warning.

    Returns:
        The result of the step's function; None if the step failed.
    """
    try:
        return run_step(settings, spark, name, ds, reason, staleness)
    except Exception as error:
        # SIGTERM ends the whole command.
        if isinstance(error, StoppedError) or not STEPS[name].may_fail:
            raise
        _logger.debug("night %s: %s failed", ds, name, exc_info=error)
        message = format_error(error) or f"{type(error).__name__}: {error}"
        _logger.warning(
            "%s of %s failed, which does not affect the night's model: %s. Run `star-ctr %s --ds %s` to repeat it",
            name, ds, message.rstrip("."), name, ds,
        )  # fmt: skip
        return None


def choose_night(settings: Settings, spark: SparkSession, name: str, ds: str | None) -> str:
    """Return the night that a step processes.

    Args:
        settings: The settings.
        spark: The Spark session.
        name: Name of the step.
        ds: The requested night. By default, the newest day in the table that the step reads; for `ingest`, the newest
            complete day of the impression log.

    Returns:
        The night.

    Raises:
        DataError: `ds` is not a date, the step is `ingest` and the impression log has no file of day `ds`, or the table
            that the step reads is empty.
    """
    if ds is not None:
        return ingest.check_day_has_files(settings, ds) if name == "ingest" else check_day(ds)
    day_from = STEPS[name].day_from
    if day_from is None:
        return find_newest_day(settings, spark)
    return WarehouseTables(settings, spark).get_newest_day(day_from)


def find_outdated_start(staleness: Staleness, ds: str, step: str) -> tuple[str, str, str] | None:
    """Find the oldest night that is not up to date and that a step builds on, directly or through other nights.

    Args:
        staleness: The states of all steps.
        ds: The night.
        step: Name of the step.

    Returns:
        The night, the step of it that is not up to date, and its state in words; None if all are up to date.
    """
    found, seen, waiting = None, set[tuple[str, str]](), staleness.list_starts(ds, step)
    while waiting:
        night, start = waiting.pop()
        state, reason = staleness.get_state(night, start)
        if (night, start) in seen or state in (State.DONE, State.REMOVED):
            continue
        seen.add((night, start))
        if found is None or night < found[0]:
            found = night, start, f"{STATE_TEXTS[state]}{f' ({reason})' if reason else ''}"
        waiting += staleness.list_starts(night, start)
    return found


def run_step(
    settings: Settings,
    spark: SparkSession,
    name: str,
    ds: str,
    reason: str,
    staleness: Staleness | None = None,
) -> Any:
    """Run a step of a night, show its progress, and record it in the journal.

    Args:
        settings: The settings.
        spark: The Spark session.
        name: Name of the step.
        ds: The night.
        reason: The reason to record in the journal.
        staleness: The states of all steps before this one runs; read from the warehouse by default.

    Returns:
        The result of the step's function.

    Raises:
        UserError: The step starts from an earlier night whose results were removed.
        ConfigError: The database in `catalog` cannot exist.
        DataError: There are no training rows to choose a recipe, or the stored recipe is damaged.
    """
    create_database(settings, spark)
    if name != CHOOSING_RECIPE and (with_recipe := apply_recipe(settings)) != settings:
        settings, staleness = with_recipe, None
    journal, staleness = Journal(settings), staleness or read_staleness(settings, busy=True)
    if start := staleness.find_removed_start(ds, name):
        raise UserError(
            f"{name} of {ds} starts from the results of the night of {start}, which `star-ctr clean` has deleted; run "
            f"`star-ctr backfill --from {start}`"
        )

    if found := find_outdated_start(staleness, ds, name):
        night, start, why = found
        _logger.warning(
            "%s of %s builds on %s of %s, which %s. Its result will be stale, too. To recompute the nights since then, "
            "run `star-ctr backfill --from %s`", name, ds, start, night, why, night,
        )  # fmt: skip

    def hash_outputs() -> dict[str, dict[str, str]]:
        return table_hashes.read_hashes(settings, ds) if name == "ingest" else {}

    run_id, inputs = staleness.get_run_id(ds, name), staleness.hash_inputs(ds, name)
    entry = journal.record_step(ds, name, run_id, inputs, reason, hash_outputs)
    _logger.info("night %s: %s started: %s", ds, name, reason)
    try:
        with show_step(name, spark.sparkContext), entry, raise_interrupts():
            if name == CHOOSING_RECIPE:
                settings = ensure_recipe(settings, spark, ds)
            result = ACTIONS[name](settings, spark, ds)
    except BaseException as error:
        error.add_note(f"The night of {ds} stopped in the step {name}.")
        raise
    register_tables(settings, spark)
    _logger.info("night %s: %s finished: %s", ds, name, result)
    for line in (line for describe in _DESCRIPTIONS.get(name, ()) for line in describe(settings, ds)):
        _logger.info("night %s: %s: %s", ds, name, line)
        stderr.print(f"  {line}", highlight=False)
    return result
