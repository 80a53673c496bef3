"""Refit: retrain the promoted model of a night with the evaluated day included, and serve it.

The promoted model was not trained on the evaluated day, which is the most informative about the next day. If
`gate.publish` is `refit`, the model is retrained on the window that ends with that day. The trade-off is that a refit
has no held-out data left to be evaluated on:

1. The metrics of the promoted run are used for the refit.
2. The refit must pass the checks in `refit_checks`. If one fails, the promoted run continues to serve.
3. The gate of the next night compares its candidate with the refit.

    spark-submit --packages io.delta:delta-spark_2.13:4.0.1 jobs/refit.py --conf conf/kuairand.yaml
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pyspark.sql import SparkSession

from star_ctr.conf.contracts.catalog import REFIT_TABLES
from star_ctr.conf.contracts.dates import check_day
from star_ctr.conf.contracts.run_id import make_run_id, strip_refit_suffix
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs import split
from star_ctr.jobs.io.delta_rows import SupersededError
from star_ctr.jobs.io.session import run_submitted_step
from star_ctr.jobs.io.split_inputs import is_written
from star_ctr.jobs.io.split_rows import read_train_rows
from star_ctr.jobs.io.train_ledger import count_rows_by_domain
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.registry.attempts import Attempt, find_attempt, get_attempt_folder
from star_ctr.jobs.registry.calibration_maps import fit_calibration_maps
from star_ctr.jobs.registry.decisions import (
    Decision,
    Decisions,
    Outcome,
    find_manual_override,
    find_serving,
    list_accepted,
)
from star_ctr.jobs.registry.refit_checks import find_failures
from star_ctr.jobs.train import make_job, pin_versions, train_run


def run(settings: Settings, spark: SparkSession, ds: str | None = None) -> dict[str, Any]:
    """Refit the run of night `ds` if it is serving and `gate.publish` is `refit`.

    A refit that was killed resumes, and a finished one is reused, if its rows have not changed.

    Args:
        settings: The settings of the data set.
        spark: The Spark session.
        ds: The night; by default the newest day of `scores`.

    Returns:
        `run_id`, `outcome`, `reason` and `serving`, the run that is serving afterwards. After a refit, also its number
        of training rows (`rows`) and the summary of its record.

    Raises:
        DataError: `features` lacks days of the window.
        UserError: Training failed.
    """
    store, decisions = WarehouseTables(settings, spark), Decisions(settings)
    ds = check_day(ds) if ds else store.get_newest_day("scores")
    candidate = make_run_id(settings, ds)
    decisions.update_pointer()
    earlier = decisions.read_all()
    serving = find_serving(earlier)
    if reason := explain_refit_disabled(settings) or _explain_no_refit(
        earlier, candidate, find_attempt(store.warehouse, candidate)
    ):
        serving_run = serving.run_id if serving else "none"
        return {"run_id": candidate, "outcome": "nothing to refit", "reason": reason, "serving": serving_run}
    promoted = next(d for d in reversed(list_accepted(earlier)) if d.run_id == candidate)
    # Do not write an unchanged split again: a new version would start training over.
    if not is_written(settings, store, ds, REFIT_TABLES):
        split.write_split(settings, spark, ds, REFIT_TABLES)
    maps = fit_calibration_maps(settings, store, ds, is_refit=True)
    job = make_job(settings, store, ds, pin_versions(store, ds, REFIT_TABLES), maps)
    record = train_run(settings, store, job)
    job = job.for_attempt(record["attempt"], get_attempt_folder(store.warehouse, job.run_id, record["attempt"]))
    rows = sum(n for _, n in count_rows_by_domain(read_train_rows(store, job)))
    refit = Decision(
        ds,
        job.run_id,
        job.attempt,
        *promoted.model,
        Outcome.REFIT,
        f"gate.publish is refit: retrained on {rows:,} rows, including those of {ds}",
    )
    outcome, reason, serving_run = publish_refit(decisions, refit, find_failures(store, settings.gate, job))
    return {**record, "rows": rows, "outcome": str(outcome), "reason": reason, "serving": serving_run}


def _explain_no_refit(earlier: Sequence[Decision], candidate: str, newest: Attempt | None) -> str:
    """Return the reason why the run of a night must not be refit; empty if it may be.

    Args:
        earlier: All decisions, oldest first.
        candidate: The run of the night.
        newest: The newest published attempt of this run. A refit would have the inputs of this attempt, so it must be
            the promoted one.
    """
    serving = find_serving(earlier)
    if serving is None or strip_refit_suffix(serving.run_id) != candidate:
        return "the night's run was not promoted"
    promoted = next((d for d in reversed(list_accepted(earlier)) if d.run_id == candidate), None)
    if promoted is None or newest is None or promoted.attempt != newest.number:
        return f"the newest attempt of the night's run was not promoted: {newest or candidate}"
    if (override := find_manual_override(earlier)) and override.decision.outcome is Outcome.ROLLED_BACK:
        return str(override)  # a refit would undo the rollback
    if serving.outcome is Outcome.PROMOTED_MANUALLY and serving.run_id != candidate:
        return str(find_manual_override(earlier))
    return ""


def publish_refit(decisions: Decisions, refit: Decision, failures: Sequence[str]) -> tuple[Outcome, str, str]:
    """Serve a refit, or hold it if a check failed.

    The refit is served only if the promoted attempt that it was made from, or an earlier refit of that attempt, is
    still serving. If the refit is already serving and a check now fails, it is rolled back. A decision that was already
    made is not written again.

    Args:
        decisions: The decisions of the warehouse.
        refit: The decision to serve the refit.
        failures: The reasons why the refit must not be served; empty if it passed all checks.

    Returns:
        The outcome, its reason, and the run that is serving afterwards (`none` if there is none).
    """
    while True:
        earlier = decisions.read_all()
        serving = find_serving(earlier)
        serving_run = serving.run_id if serving else "none"
        decision = _decide(earlier, refit, failures)
        if decision is None:
            decisions.update_pointer()  # an earlier call may have been killed before it wrote `serving.json`
            if serving is not None and serving.model == refit.model:
                return Outcome.REFIT, refit.reason, serving_run
            last = next(d for d in reversed(earlier) if d.model == refit.model)
            return last.outcome, last.reason, serving_run
        try:
            decisions.add(decision, earlier)
        except SupersededError:
            continue
        serving = find_serving(decisions.read_all())
        return decision.outcome, decision.reason, serving.run_id if serving else "none"


def _decide(earlier: list[Decision], refit: Decision, failures: Sequence[str]) -> Decision | None:
    """Return the decision on a refit; None if it was already made."""
    serving = find_serving(earlier)
    if serving is not None and serving.model == refit.model:
        if not failures:
            return None
        accepted = list_accepted(earlier)
        if len(accepted) > 1:
            previous = accepted[-2]
            return replace(
                refit, ds=previous.ds, run_id=previous.run_id, attempt=previous.attempt,
                reference_run_id=serving.run_id, reference_attempt=serving.attempt, outcome=Outcome.ROLLED_BACK,
                reason=_format_reason(failures),
            )  # fmt: skip
    elif not failures and not _is_replaceable(serving, refit):
        failures = [f"{serving.run_id if serving else 'no model'} is serving now"]
    if not failures:
        return refit
    held = replace(refit, outcome=Outcome.REFIT_HELD, reason=_format_reason(failures))
    last = [(d.outcome, d.reason) for d in earlier if d.model == refit.model][-1:]
    return None if last == [(held.outcome, held.reason)] else held


def _is_replaceable(serving: Decision | None, refit: Decision) -> bool:
    """Return whether the attempt that a refit was made from is serving, or an earlier refit of that attempt."""
    promoted = (refit.reference_run_id, refit.reference_attempt)
    return serving is not None and (
        serving.model == promoted
        or (
            strip_refit_suffix(serving.run_id) == refit.reference_run_id
            and (serving.reference_run_id, serving.reference_attempt) == promoted
        )
    )


def _format_reason(failures: Sequence[str]) -> str:
    return f"the refit is not served: {'; '.join(failures)}"


def explain_refit_disabled(settings: Settings) -> str:
    """Return the reason why the settings disable refits; empty if they enable them."""
    return "" if settings.gate.publish == "refit" else f"gate.publish is {settings.gate.publish}"


if __name__ == "__main__":
    run_submitted_step("refit")
