"""Gate: the night's candidate against the model that is served, on the same rows; promoted, held, or too little to say.

The serving model scores the day's rows too (features as known then, encoded by its own vocabularies) and is judged
beside the candidate; the decision, with its reason and numbers, goes into `decisions`.

    spark-submit --packages io.delta:delta-spark_2.13:4.0.1 jobs/gate.py --conf conf/kuairand.yaml
"""

from __future__ import annotations

from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.days import valid_day
from star_ctr.conf.identity import features_hash, judged_run, run_id, variant
from star_ctr.conf.layout import OTHER, OVERALL
from star_ctr.conf.settings import Settings
from star_ctr.features.bootstrap import INTERVALS
from star_ctr.jobs.baseline import NIGHTS, baseline_runs
from star_ctr.jobs.decisions import Decision, Decisions, Outcome, serving
from star_ctr.jobs.differences import difference
from star_ctr.jobs.evaluate import COLUMNS, Run, judge, read_metrics
from star_ctr.jobs.gate_checks import DRAWS, Facts
from star_ctr.jobs.models import Model, find_model
from star_ctr.jobs.score import scored
from star_ctr.jobs.session import submitted
from star_ctr.jobs.split import encode
from star_ctr.jobs.store import Store, among
from star_ctr.jobs.verdict import verdict


def run(settings: Settings, spark: SparkSession, ds: str | None = None) -> dict[str, Any]:
    """Decide on the run of night `ds`; returns outcome, reason, and what is served from now on."""
    store, decisions = Store(settings, spark), Decisions(settings)
    ds = valid_day(ds) if ds else store.days("scores")[-1]
    candidate = run_id(settings, ds)
    decisions.point()
    decided = decisions.all()
    now = serving(decided)
    if now is not None and (judged_run(now.run_id) == candidate or now.ds > ds):
        later = f"the serving model is of a later night, {now.ds}"
        reason = "it is served already" if now.ds <= ds else later
        return {"run_id": candidate, "outcome": "nothing to decide", "reason": reason, "serving": now.run_id}
    outcome, reason, facts = _decided(settings, store, ds, candidate, decided)
    against = now.run_id if now else ""
    said = [d for d in decided if d.run_id == candidate][-1:]
    # A night that is run again, or was killed here, decides the same: that is no new decision.
    if [(d.against, d.outcome, d.reason) for d in said] != [(against, outcome, reason)]:
        decisions.add(Decision(ds, candidate, against, outcome, reason, facts=facts))
    served = candidate if outcome is Outcome.PROMOTED else against
    return {"run_id": candidate, "outcome": str(outcome), "reason": reason, "serving": served or "none"}


def _decided(
    settings: Settings, store: Store, ds: str, candidate: str, decisions: list[Decision]
) -> tuple[Outcome, str, dict[str, Any]]:
    now = serving(decisions)
    metrics = read_metrics(store, [candidate], (*COLUMNS, *INTERVALS))
    runs = _runs_before(settings, store, ds)
    before = _by_night(store, baseline_runs(runs, decisions))
    recent = _by_night(store, runs[-NIGHTS:])
    differences: list[dict[str, Any]] = []
    then: dict[str, Any] = {}
    if now is not None:
        model = find_model(settings, now.run_id)
        if features_hash(model.settings) != features_hash(settings):
            reason = f"{now.run_id} reads other features, so the two were not compared; promote by hand"
            return Outcome.HELD, reason, _kept(metrics, [])
        beside = _judged_beside(model, store, ds, candidate)
        differences = difference(store, _with_min_draws(settings), candidate, beside)
        accepted = read_metrics(store, [judged_run(now.run_id)], (*COLUMNS, *INTERVALS))
        then = next((r for r in accepted if r["domain"] == OVERALL), {})
    facts = Facts(metrics, differences, before, then, settings.evaluate.level, recent)
    outcome, reason = verdict(settings.gate, facts)
    return outcome, reason, _kept(metrics, differences)


def _judged_beside(model: Model, store: Store, ds: str, candidate: str) -> str:
    """Score and judge a run on another night's rows; returns the name under which its scores stand.

    The rows are the candidate's, with their domains, so that both are judged alike; a domain that the model does not
    know it takes as it does in its own night.
    """
    known = F.col("domain").isin(list(model.layout.domains))
    rows = (
        store.read("features")
        .where(F.col("ds") == ds)
        .withColumn("domain", F.when(known, F.col("domain")).otherwise(OTHER))
        .withColumn("part", F.lit("test"))
    )
    encoded = encode(model.settings, rows, model.layout, model.vocabularies).withColumn("ds", F.lit(ds))
    scores = scored(encoded, model.folder, model.run_id).select("impression_id", "score")
    name = f"{model.run_id}@{ds}"
    of_candidate = store.read("scores").where(F.col("run_id") == candidate).drop("score")
    joined: DataFrame = of_candidate.withColumn("run_id", F.lit(name)).join(scores, "impression_id")
    columns = ("run_id", "ds", "impression_id", "user_id", "domain", "label", "score")
    store.replace("scores", joined.select(*columns), among("run_id", [name]))
    judge(store, [Run(name, ds, variant(model.settings), model.settings.trainer.seed)])
    return name


def _with_min_draws(settings: Settings) -> Settings:
    """Return settings with at least the bootstrap draws that the gate's tests need."""
    draws = max(settings.evaluate.replicates, DRAWS)
    return settings.model_copy(update={"evaluate": settings.evaluate.model_copy(update={"replicates": draws})})


def _runs_before(settings: Settings, store: Store, ds: str) -> list[str]:
    """Return the runs of this configuration's earlier nights, oldest first."""
    there = store.read("metrics").where(F.col("ds") < ds).select("run_id", "ds").distinct().collect()
    return [run_id(settings, night) for night in sorted({r.ds for r in there if r.run_id == run_id(settings, r.ds)})]


def _by_night(store: Store, runs: list[str]) -> list[list[dict[str, Any]]]:
    """Read the metrics of runs, one list per run."""
    rows = read_metrics(store, runs)
    return [[row for row in rows if row["run_id"] == run] for run in runs]


def _kept(metrics: list[dict[str, Any]], differences: list[dict[str, Any]]) -> dict[str, Any]:
    """What stands beside a decision: the numbers that it was made from."""
    return {"metrics": metrics, "differences": differences}


if __name__ == "__main__":
    submitted("gate", run)
