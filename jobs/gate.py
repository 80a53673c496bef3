"""Gate: the night's candidate against the model that is served, on the same rows; promoted, held, or too little to say.

The serving model scores the day's rows too (features as known then, encoded by its own vocabularies) and is judged
beside the candidate; the decision, with its reason and numbers, goes into `decisions`.

    spark-submit --packages io.delta:delta-spark_2.13:4.0.1 jobs/gate.py --conf conf/kuairand.yaml
"""

from __future__ import annotations

from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.contracts.dates import check_day
from star_ctr.conf.contracts.encoded_row import OTHER, OVERALL
from star_ctr.conf.contracts.run_id import format_variant, hash_features_settings, make_run_id, strip_refit_suffix
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.features.evaluation.bootstrap import INTERVALS
from star_ctr.jobs.evaluate import COLUMNS, Run, evaluate_runs, read_metrics
from star_ctr.jobs.io.delta_rows import SupersededError
from star_ctr.jobs.io.session import run_submitted_step
from star_ctr.jobs.io.warehouse import WarehouseTables, make_in_condition
from star_ctr.jobs.registry.attempts import Attempt, get_published_attempt
from star_ctr.jobs.registry.decisions import (
    Decision,
    Decisions,
    Outcome,
    find_manual_hold,
    find_serving,
    get_evaluated_attempt,
)
from star_ctr.jobs.registry.gate_baseline import NIGHTS, select_baseline_runs
from star_ctr.jobs.registry.gate_checks import DRAWS, GateInputs
from star_ctr.jobs.registry.gate_policy import decide
from star_ctr.jobs.registry.models import Model, find_model
from star_ctr.jobs.score import score_rows
from star_ctr.jobs.split import encode
from star_ctr.jobs.tools.differences import compare_runs


def run(settings: Settings, spark: SparkSession, ds: str | None = None) -> dict[str, Any]:
    """Decide on the run of night `ds`; returns outcome, reason, and what is served from now on."""
    store, decisions = WarehouseTables(settings, spark), Decisions(settings)
    ds = check_day(ds) if ds else store.days("scores")[-1]
    candidate = get_published_attempt(store.warehouse, make_run_id(settings, ds))
    decisions.update_pointer()
    while True:
        decided = decisions.all()
        if reason := _explain_no_decision(decided, candidate, ds):
            return _make_result(candidate, "nothing to decide", reason, find_serving(decided))
        decision = _decide(settings, store, ds, candidate, decided)
        # If the night runs again, for example after a kill, do not add the same decision twice.
        if not _is_repeated(decided, decision):
            try:
                decisions.add(decision, decided)
            except SupersededError:  # for example, a manual decision was committed meanwhile
                continue
        return _make_result(candidate, str(decision.outcome), decision.reason, find_serving(decisions.all()))


def _make_result(candidate: Attempt, outcome: str, reason: str, served: Decision | None) -> dict[str, Any]:
    return {
        "run_id": candidate.run_id, "attempt": candidate.number, "outcome": outcome, "reason": reason,
        "serving": served.run_id if served else "none", "serving_attempt": served.attempt if served else None,
    }  # fmt: skip


def _explain_no_decision(decided: list[Decision], candidate: Attempt, ds: str) -> str:
    """Return why the gate must not decide on a candidate; empty if it may."""
    now = find_serving(decided)
    if now is not None and now.ds > ds:
        return f"the serving model is of a later night, {now.ds}"
    if (hold := find_manual_hold(decided)) and ds <= hold.night:
        return str(hold)
    if now is not None and get_evaluated_attempt(decided, now) == candidate.key:
        return "it is served already"
    return ""


def _is_repeated(decided: list[Decision], new: Decision) -> bool:
    """Return whether the last decision on this attempt is the same and does not change the serving model."""
    said = [d for d in decided if d.model == new.model][-1:]
    same = [(d.reference_run_id, d.reference_attempt, d.outcome, d.reason) for d in said]
    return (
        same == [(new.reference_run_id, new.reference_attempt, new.outcome, new.reason)]
        and new.outcome is not Outcome.PROMOTED
    )


def _decide(
    settings: Settings, store: WarehouseTables, ds: str, candidate: Attempt, decisions: list[Decision]
) -> Decision:
    now = find_serving(decisions)
    metrics = read_metrics(store, [candidate.run_id], (*COLUMNS, *INTERVALS))
    _check_attempt(store, candidate, metrics)
    runs = _list_earlier_runs(settings, store, ds)
    before = _read_metrics(store, select_baseline_runs(runs, decisions))
    recent = _read_metrics(store, runs[-NIGHTS:])
    differences: list[dict[str, Any]] = []
    then: dict[str, Any] = {}

    def decision(outcome: Outcome, reason: str) -> Decision:
        facts = {"metrics": metrics, "differences": differences}
        against, number = now.model if now else ("", None)
        return Decision(ds, candidate.run_id, candidate.number, against, number, outcome, reason, evidence=facts)

    if now is not None:
        # A refit was also trained on its own night, so compare that night with the promoted attempt instead.
        same_night = strip_refit_suffix(now.run_id) != now.run_id and now.ds == ds
        model = find_model(settings, *(get_evaluated_attempt(decisions, now) if same_night else now.model))
        if hash_features_settings(model.settings) != hash_features_settings(settings):
            reason = (
                f"{model.attempt} uses different features, so the two were not compared; use `star-ctr promote` to "
                "serve the candidate"
            )
            return decision(Outcome.HELD, reason)
        beside = _score_and_evaluate(model, store, ds, candidate)
        differences = compare_runs(store, _require_draws(settings), candidate.run_id, beside)
        then = next((r for r in read_accepted_metrics(decisions, now) if r["domain"] == OVERALL), {})
    facts = GateInputs(metrics, differences, before, then, settings.evaluate.level, recent)
    return decision(*decide(settings.gate, facts))


def read_accepted_metrics(decisions: list[Decision], now: Decision) -> list[dict[str, Any]]:
    """Return the metrics that the serving model was accepted with; for a refit, those of the promoted attempt."""
    judged = get_evaluated_attempt(decisions, now)
    found = [d for d in decisions if d.model == judged and d.evidence.get("metrics")]
    return found[-1].evidence["metrics"] if found else []


def _check_attempt(store: WarehouseTables, candidate: Attempt, metrics: list[dict[str, Any]]) -> None:
    """Raise `DataError` if the metrics are missing or belong to another attempt."""
    of = {row["attempt"] for row in metrics}
    if of != {candidate.number}:
        found = f"found those of attempt {max(of)}" if of else "found none"
        raise DataError(
            f"{store.warehouse.table('metrics')}: no metrics of {candidate}, {found}; run `star-ctr score` and "
            "`star-ctr evaluate` first"
        )


def _score_and_evaluate(model: Model, store: WarehouseTables, ds: str, candidate: Attempt) -> str:
    """Score and judge a model on another night's rows; returns the run id of these scores.

    Uses the rows and domains of the candidate, so that both are judged on the same rows. A domain that the model does
    not know is scored as on its own night.
    """
    known = F.col("domain").isin(list(model.layout.domains))
    rows = (
        store.read("features")
        .where(F.col("ds") == ds)
        .withColumn("domain", F.when(known, F.col("domain")).otherwise(OTHER))
        .withColumn("part", F.lit("test"))
    )
    encoded = encode(model.settings, rows, model.layout, model.vocabularies).withColumn("ds", F.lit(ds))
    scores = score_rows(encoded, model.attempt).select("impression_id", "attempt", "score")
    name = f"{model.attempt.run_id}@{ds}"
    of_candidate = store.read("scores").where(F.col("run_id") == candidate.run_id).drop("attempt", "score")
    joined: DataFrame = of_candidate.withColumn("run_id", F.lit(name)).join(scores, "impression_id")
    columns = ("run_id", "attempt", "ds", "impression_id", "user_id", "domain", "label", "score")
    store.replace("scores", joined.select(*columns), make_in_condition("run_id", [name]))
    evaluate_runs(
        store, [Run(name, model.attempt.number, ds, format_variant(model.settings), model.settings.trainer.seed)]
    )
    return name


def _require_draws(settings: Settings) -> Settings:
    """Return settings with at least the bootstrap draws that the gate's tests need."""
    draws = max(settings.evaluate.replicates, DRAWS)
    return settings.model_copy(update={"evaluate": settings.evaluate.model_copy(update={"replicates": draws})})


def _list_earlier_runs(settings: Settings, store: WarehouseTables, ds: str) -> list[str]:
    """Return the runs of this configuration's earlier nights, oldest first."""
    there = store.read("metrics").where(F.col("ds") < ds).select("run_id", "ds").distinct().collect()
    return [
        make_run_id(settings, night)
        for night in sorted({r.ds for r in there if r.run_id == make_run_id(settings, r.ds)})
    ]


def _read_metrics(store: WarehouseTables, runs: list[str]) -> list[list[dict[str, Any]]]:
    """Read the metrics of runs, one list per run."""
    rows = read_metrics(store, runs)
    return [[row for row in rows if row["run_id"] == run] for run in runs]


if __name__ == "__main__":
    run_submitted_step("gate")
