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

from star_ctr.conf.days import valid_day
from star_ctr.conf.identity import judged_run, run_id
from star_ctr.conf.settings import Settings
from star_ctr.conf.tables import OF_REFIT
from star_ctr.jobs import split
from star_ctr.jobs.decisions import Decision, Decisions, Outcome, serving
from star_ctr.jobs.refit_checks import failures
from star_ctr.jobs.session import submitted
from star_ctr.jobs.split_inputs import is_written
from star_ctr.jobs.store import Store
from star_ctr.jobs.train import pin, pinned, rows_of_split, trained


def run(settings: Settings, spark: SparkSession, ds: str | None = None) -> dict[str, Any]:
    """Refit the run of night `ds` if it is served and the settings ask for it; returns what is served from now on."""
    store, decisions = Store(settings, spark), Decisions(settings)
    ds = valid_day(ds) if ds else store.days("scores")[-1]
    candidate = run_id(settings, ds)
    now = serving(decisions.all())
    served = now.run_id if now else "none"
    reason = not_needed(settings)
    if reason or judged_run(served) != candidate:
        reason = reason or "the night's run was not promoted"
        return {"run_id": candidate, "outcome": "nothing to refit", "reason": reason, "serving": served}
    # A training that was killed goes on, and one that is done stands, as long as its rows are the same version.
    if not is_written(settings, store, ds, OF_REFIT):
        split.run(settings, spark, ds, OF_REFIT)
    job = pinned(settings, store, ds, pin(store, ds, OF_REFIT))
    record = trained(settings, store, job)
    rows = sum(n for _, n in rows_of_split(store, job, "train"))
    refit = Decision(
        ds,
        job.run_id,
        candidate,
        Outcome.REFIT,
        f"gate.publish is refit: retrained on {rows:,} rows, including those of {ds}",
    )
    outcome, reason, served = publish(decisions, refit, failures(store, settings.gate, job))
    return {**record, "rows": rows, "outcome": str(outcome), "reason": reason, "serving": served}


def publish(decisions: Decisions, refit: Decision, failed: Sequence[str]) -> tuple[Outcome, str, str]:
    """Serve a refit, or hold it if its checks failed; returns outcome, reason, and the run that is served now.

    If an earlier training of the refit is already served and the new one fails, it is rolled back. An existing decision
    is not written again.
    """
    decided = decisions.all()
    now = serving(decided)
    served = now.run_id if now else "none"
    if not failed:
        if served != refit.run_id:
            decisions.add(refit)
        decisions.point()  # in case an earlier attempt was killed between the decision and `serving.json`
        return Outcome.REFIT, refit.reason, refit.run_id
    reason = f"the refit is not served: {'; '.join(failed)}"
    if served == refit.run_id:
        return Outcome.ROLLED_BACK, reason, decisions.rollback(reason, by=refit.by).run_id
    said = [(d.outcome, d.reason) for d in decided if d.run_id == refit.run_id][-1:]
    if said != [(Outcome.REFIT_HELD, reason)]:
        decisions.add(replace(refit, outcome=Outcome.REFIT_HELD, reason=reason))
    return Outcome.REFIT_HELD, reason, served


def not_needed(settings: Settings) -> str:
    """Why no refit is asked for; empty where one is."""
    return "" if settings.gate.publish == "refit" else f"gate.publish is {settings.gate.publish}"


if __name__ == "__main__":
    submitted("refit", run)
