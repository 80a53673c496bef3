"""Train the promoted model of a night again, on days up to and including the evaluated day, and serve it (a refit).

The promoted model has not seen the evaluated day, which says most about the next day. If `gate.publish` is `refit`, the
same training runs on the window that ends with that day. No unseen rows are left to evaluate the refit on: the metrics
of the promoted run stand for it, and the gate of the next night compares that night's candidate with it. A refit must
pass its own checks (`refit_checks`). If one fails, the refit is not served, and the promoted run stays.

    spark-submit --packages io.delta:delta-spark_2.13:4.0.1 jobs/refit.py --conf conf/kuairand.yaml
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pyspark.sql import SparkSession

from star_ctr.conf.contracts.catalog import OF_REFIT
from star_ctr.conf.contracts.dates import check_day
from star_ctr.conf.contracts.run_id import make_run_id, strip_refit_suffix
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs import split
from star_ctr.jobs.io.delta_rows import SupersededError
from star_ctr.jobs.io.session import run_submitted_step
from star_ctr.jobs.io.split_inputs import is_written
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.registry.attempts import Attempt, find_attempt, get_attempt_folder
from star_ctr.jobs.registry.decisions import Decision, Decisions, Outcome, find_manual_hold, find_serving, list_accepted
from star_ctr.jobs.registry.refit_checks import find_failures
from star_ctr.jobs.train import count_split_rows, make_job, pin_versions, train_run


def run(settings: Settings, spark: SparkSession, ds: str | None = None) -> dict[str, Any]:
    """Refit the run of night `ds` if it is served and the settings ask for it; returns what is served from now on."""
    store, decisions = WarehouseTables(settings, spark), Decisions(settings)
    ds = check_day(ds) if ds else store.days("scores")[-1]
    candidate = make_run_id(settings, ds)
    decisions.update_pointer()
    decided = decisions.all()
    now = find_serving(decided)
    if reason := explain_not_needed(settings) or _explain_no_refit(
        decided, candidate, find_attempt(store.warehouse, candidate)
    ):
        served = now.run_id if now else "none"
        return {"run_id": candidate, "outcome": "nothing to refit", "reason": reason, "serving": served}
    promoted = next(d for d in reversed(list_accepted(decided)) if d.run_id == candidate)
    # A training that was killed goes on, and one that is done stands, as long as its rows are the same version.
    if not is_written(settings, store, ds, OF_REFIT):
        split.write_split(settings, spark, ds, OF_REFIT)
    job = make_job(settings, store, ds, pin_versions(store, ds, OF_REFIT))
    record = train_run(settings, store, job)
    job = job.for_attempt(record["attempt"], get_attempt_folder(store.warehouse, job.run_id, record["attempt"]))
    rows = sum(n for _, n in count_split_rows(store, job, "train"))
    refit = Decision(
        ds,
        job.run_id,
        job.attempt,
        *promoted.model,
        Outcome.REFIT,
        f"gate.publish is refit: retrained on {rows:,} rows, including those of {ds}",
    )
    outcome, reason, served = publish(decisions, refit, find_failures(store, settings.gate, job))
    return {**record, "rows": rows, "outcome": str(outcome), "reason": reason, "serving": served}


def _explain_no_refit(decided: Sequence[Decision], candidate: str, newest: Attempt | None) -> str:
    """Return why the run of the night must not be refit; empty if it may.

    Args:
        decided: All decisions.
        candidate: The run of the night.
        newest: Its newest published attempt. A refit has the same inputs, so this attempt must be the promoted one.
    """
    now = find_serving(decided)
    if now is None or strip_refit_suffix(now.run_id) != candidate:
        return "the night's run was not promoted"
    promoted = next((d for d in reversed(list_accepted(decided)) if d.run_id == candidate), None)
    if promoted is None or newest is None or promoted.attempt != newest.number:
        return f"the newest attempt of the night's run was not promoted: {newest or candidate}"
    if (hold := find_manual_hold(decided)) and hold.decision.outcome is Outcome.ROLLED_BACK:
        return str(hold)  # a refit would undo the rollback
    if now.outcome is Outcome.PROMOTED_MANUALLY and now.run_id != candidate:
        return str(find_manual_hold(decided))
    return ""


def publish(decisions: Decisions, refit: Decision, failed: Sequence[str]) -> tuple[Outcome, str, str]:
    """Serve a refit, or hold it if its checks failed; returns outcome, reason, and the run that is served now.

    The refit is served only if the promoted attempt that it was made from, or an earlier refit of it, is still serving.
    If the refit is already serving and now fails, it is rolled back. The same decision is not written twice.
    """
    while True:
        decided = decisions.all()
        now = find_serving(decided)
        served = now.run_id if now else "none"
        decision = _decide(decided, refit, failed)
        if decision is None:
            decisions.update_pointer()  # an earlier call may have been killed before it wrote `serving.json`
            is_served = now is not None and now.model == refit.model
            outcome = Outcome.REFIT if is_served else Outcome.REFIT_HELD
            return outcome, refit.reason if is_served else _format_reason(failed), served
        try:
            decisions.add(decision, decided)
        except SupersededError:
            continue
        now = find_serving(decisions.all())
        return decision.outcome, decision.reason, now.run_id if now else "none"


def _decide(decided: list[Decision], refit: Decision, failed: Sequence[str]) -> Decision | None:
    """Return the decision on a refit; None if the same decision was already made."""
    now = find_serving(decided)
    if failed:
        reason = _format_reason(failed)
        if now is not None and now.model == refit.model:
            before = list_accepted(decided)[-2]
            return replace(
                refit, ds=before.ds, run_id=before.run_id, attempt=before.attempt, reference_run_id=now.run_id,
                reference_attempt=now.attempt, outcome=Outcome.ROLLED_BACK, reason=reason,
            )  # fmt: skip
        said = [(d.outcome, d.reason) for d in decided if d.model == refit.model][-1:]
        held = replace(refit, outcome=Outcome.REFIT_HELD, reason=reason)
        return None if said == [(held.outcome, reason)] else held
    promoted = (refit.reference_run_id, refit.reference_attempt)
    if now is None or (now.model != promoted and (now.reference_run_id, now.reference_attempt) != promoted):
        reason = _format_reason([f"{now.run_id if now else 'no model'} is serving now"])
        return replace(refit, outcome=Outcome.REFIT_HELD, reason=reason)
    return None if now.model == refit.model else refit


def _format_reason(failed: Sequence[str]) -> str:
    return f"the refit is not served: {'; '.join(failed)}"


def explain_not_needed(settings: Settings) -> str:
    """Why no refit is asked for; empty where one is."""
    return "" if settings.gate.publish == "refit" else f"gate.publish is {settings.gate.publish}"


if __name__ == "__main__":
    run_submitted_step("refit")
