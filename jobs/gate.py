"""Gate: compare the candidate of a night with the serving model on the same rows, and promote or hold the candidate.

The serving model also scores the rows of the day, with point-in-time features encoded by its own vocabularies. Both
models are evaluated on these rows. The outcome (promoted, held, or not enough data), its reason and the metrics go to
`decisions`.

    spark-submit --packages io.delta:delta-spark_2.13:4.0.1 jobs/gate.py --conf conf/kuairand.yaml
"""

from __future__ import annotations

from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.contracts.column_names import name_outcome_label
from star_ctr.conf.contracts.dates import check_day
from star_ctr.conf.contracts.domains import OTHER_NAME, OVERALL
from star_ctr.conf.contracts.run_id import format_variant, hash_features_settings, make_run_id, strip_refit_suffix
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.features.evaluation.bootstrap import INTERVALS
from star_ctr.jobs.evaluate import METRICS_COLUMNS, ScoredRun, evaluate_runs, read_metrics
from star_ctr.jobs.io.delta_rows import SupersededError, quote_literal, read_rows
from star_ctr.jobs.io.encoded_rows import encode
from star_ctr.jobs.io.session import run_submitted_step
from star_ctr.jobs.io.warehouse import WarehouseTables, make_in_condition
from star_ctr.jobs.quality.jump_list import read_jumps
from star_ctr.jobs.registry.attempts import Attempt, get_published_attempt
from star_ctr.jobs.registry.decisions import (
    Decision,
    Decisions,
    Outcome,
    find_manual_override,
    find_serving,
    get_evaluated_attempt,
)
from star_ctr.jobs.registry.gate_baseline import BASELINE_NIGHTS, estimate_completeness, select_baseline_runs
from star_ctr.jobs.registry.gate_checks import GateInputs, require_bootstrap_samples
from star_ctr.jobs.registry.gate_policy import decide
from star_ctr.jobs.registry.models import ScoringModel, find_scoring_model
from star_ctr.jobs.score import SCORE_COLUMNS, score_rows
from star_ctr.jobs.tools.differences import compare_runs

_JUMPS = 3
"""Maximum number of jumps in the data that a reason lists."""


def run(settings: Settings, spark: SparkSession, ds: str | None = None) -> dict[str, Any]:
    """Decide whether to serve the run of night `ds`.

    Args:
        settings: The settings of the data set.
        spark: The Spark session.
        ds: The night; by default the newest day of `scores`.

    Returns:
        The candidate (`run_id`, `attempt`), `outcome`, `reason`, and the model that is serving afterwards (`serving`,
        `serving_attempt`).

    Raises:
        DataError: There are no metrics of the candidate, or a file of the serving model is damaged.
        UserError: The night has no finished run.
    """
    store, decisions = WarehouseTables(settings, spark), Decisions(settings)
    ds = check_day(ds) if ds else store.get_newest_day("scores")
    candidate = get_published_attempt(store.warehouse, make_run_id(settings, ds))
    decisions.update_pointer()
    while True:
        earlier = decisions.read_all()
        if reason := _explain_no_decision(earlier, candidate, ds):
            return _make_result(candidate, "nothing to decide", reason, find_serving(earlier))
        decision = _decide(settings, store, ds, candidate, earlier)
        # Do not add the same decision twice if the night runs again, for example after it was killed.
        if not _is_repeated(earlier, decision):
            try:
                decisions.add(decision, earlier)
            except SupersededError:  # for example, a manual decision was committed in the meantime
                continue
        return _make_result(candidate, str(decision.outcome), decision.reason, find_serving(decisions.read_all()))


def _make_result(candidate: Attempt, outcome: str, reason: str, serving: Decision | None) -> dict[str, Any]:
    """Return the result of the step."""
    return {
        "run_id": candidate.run_id, "attempt": candidate.number, "outcome": outcome, "reason": reason,
        "serving": serving.run_id if serving else "none", "serving_attempt": serving.attempt if serving else None,
    }  # fmt: skip


def _explain_no_decision(earlier: list[Decision], candidate: Attempt, ds: str) -> str:
    """Return the reason why the gate must not decide on a candidate; empty if it may decide."""
    serving = find_serving(earlier)
    if serving is not None and serving.ds > ds:
        return f"the serving model is of a later night, {serving.ds}"
    if (override := find_manual_override(earlier)) and ds <= override.night:
        return str(override)
    if serving is not None and get_evaluated_attempt(earlier, serving) == candidate.key:
        return "the candidate or its refit is already serving"
    return ""


def _is_repeated(earlier: list[Decision], new: Decision) -> bool:
    """Return whether `new` repeats the last decision on its attempt and does not change the serving model."""
    last = [d for d in earlier if d.model == new.model][-1:]
    same = [(d.reference_run_id, d.reference_attempt, d.outcome, d.reason) for d in last]
    return (
        same == [(new.reference_run_id, new.reference_attempt, new.outcome, new.reason)]
        and new.outcome is not Outcome.PROMOTED
    )


def _decide(
    settings: Settings, store: WarehouseTables, ds: str, candidate: Attempt, decisions: list[Decision]
) -> Decision:
    """Return the decision on a candidate, based on its metrics and, if there is one, on the serving model."""
    serving = find_serving(decisions)
    metrics = read_metrics(store, [candidate.run_id], (*METRICS_COLUMNS, *INTERVALS))
    _check_attempt(store, candidate, metrics)
    runs = _list_earlier_runs(settings, store, ds)
    baseline = _read_metrics(store, select_baseline_runs(runs, decisions))
    recent = _read_metrics(store, runs[-BASELINE_NIGHTS:])
    differences: list[dict[str, Any]] = []
    accepted_metrics: dict[str, Any] = {}

    def make_decision(outcome: Outcome, reason: str) -> Decision:
        evidence = {"metrics": metrics, "differences": differences}
        reference_run_id, number = serving.model if serving else ("", None)
        return Decision(
            ds, candidate.run_id, candidate.number, reference_run_id, number, outcome, add_jumps(settings, ds, reason),
            evidence=evidence,
        )  # fmt: skip

    if serving is not None:
        # A refit was also trained on the rows of its night. On that night, compare with the promoted attempt instead.
        same_night = strip_refit_suffix(serving.run_id) != serving.run_id and serving.ds == ds
        model = find_scoring_model(
            settings, *(get_evaluated_attempt(decisions, serving) if same_night else serving.model)
        )
        if hash_features_settings(model.settings) != hash_features_settings(settings):
            reason = (
                f"the serving model {model.attempt} uses different features, so it was not compared with the "
                f"candidate; use `star-ctr promote --run-id {candidate.run_id}` to serve the candidate"
            )
            return make_decision(Outcome.HELD, reason)
        reference = _score_and_evaluate(model, store, ds, candidate)
        differences = compare_runs(store, require_bootstrap_samples(settings), candidate.run_id, reference)
        accepted_metrics = next((r for r in read_accepted_metrics(decisions, serving) if r["domain"] == OVERALL), {})
    final = _read_final_metrics(store, runs[-BASELINE_NIGHTS:], ds)
    completeness = estimate_completeness(metrics, [row for night in recent for row in night], final)
    inputs = GateInputs(metrics, differences, baseline, accepted_metrics, settings.evaluate.level, recent, completeness)
    return make_decision(*decide(settings.gate, inputs))


def add_jumps(settings: Settings, ds: str, reason: str) -> str:
    """Add the most severe jumps in the data of day `ds` to the reason of a decision, because they may explain it."""
    jumps = read_jumps(settings, ds).describe(_JUMPS)
    return f"{reason}; jumps in the data: {', '.join(jumps)}" if jumps else reason


def read_accepted_metrics(decisions: list[Decision], serving: Decision) -> list[dict[str, Any]]:
    """Return the metrics by domain with which the serving model was accepted.

    Args:
        decisions: All decisions, oldest first.
        serving: The decision that the serving model comes from.

    Returns:
        The metrics in the last decision on the evaluated attempt, which for a refit is the promoted attempt; empty if
        no decision on it has metrics.
    """
    evaluated = get_evaluated_attempt(decisions, serving)
    found = [d for d in decisions if d.model == evaluated and d.evidence.get("metrics")]
    return found[-1].evidence["metrics"] if found else []


def _check_attempt(store: WarehouseTables, candidate: Attempt, metrics: list[dict[str, Any]]) -> None:
    """Raise `DataError` if the metrics are missing or belong to another attempt."""
    attempts = {row["attempt"] for row in metrics}
    if attempts != {candidate.number}:
        found = f", only of attempt {max(attempts)}" if attempts else ""
        raise DataError(
            f"{store.warehouse.table('metrics')}: no metrics of {candidate}{found}; run `star-ctr score` and "
            "`star-ctr evaluate` first"
        )


def _score_and_evaluate(model: ScoringModel, store: WarehouseTables, ds: str, candidate: Attempt) -> str:
    """Score and evaluate a model on the rows of the candidate.

    Domains that the model does not know are scored as `other`. The scores keep the domains of the candidate, so that
    both models are evaluated on the same rows and domains.

    Returns:
        The run id of the scores and metrics, `<run_id>@<ds>`.
    """
    known = F.col("domain").isin(list(model.layout.domains))
    rows = (
        store.read("features")
        .where(F.col("ds") == ds)
        .withColumn("domain", F.when(known, F.col("domain")).otherwise(OTHER_NAME))
        .withColumn("part", F.lit("test"))
        # Placeholders: the labels are taken from the candidate's scores.
        .withColumns({"label": F.lit(0.0), "label_final": F.lit(False)})
        .withColumns({name_outcome_label(name): F.lit(0.0) for name in model.layout.outcomes})
    )
    encoded = encode(model.settings, rows, model.layout, model.vocabularies).withColumn("ds", F.lit(ds))
    scores = score_rows(encoded, model.attempt).select("impression_id", "attempt", "score")
    name = f"{model.attempt.run_id}@{ds}"
    candidate_rows = store.read("scores").where(F.col("run_id") == candidate.run_id).drop("attempt", "score")
    joined: DataFrame = candidate_rows.withColumn("run_id", F.lit(name)).join(scores, "impression_id")
    store.replace("scores", joined.select(*SCORE_COLUMNS), make_in_condition("run_id", [name]))
    evaluate_runs(
        store, [ScoredRun(name, model.attempt.number, ds, format_variant(model.settings), model.settings.trainer.seed)]
    )
    return name


def _read_final_metrics(store: WarehouseTables, runs: list[str], ds: str) -> list[dict[str, Any]]:
    """Read the final metrics of those runs that had them on night `ds`."""
    rows = read_rows(store.warehouse.table("final_metrics"), f"as_of <= {quote_literal(ds)}")
    return [row for row in rows if row["run_id"] in runs]


def _list_earlier_runs(settings: Settings, store: WarehouseTables, ds: str) -> list[str]:
    """Return the runs of this configuration on earlier nights, oldest first."""
    rows = store.read("metrics").where(F.col("ds") < ds).select("run_id", "ds").distinct().collect()
    return [
        make_run_id(settings, night)
        for night in sorted({r.ds for r in rows if r.run_id == make_run_id(settings, r.ds)})
    ]


def _read_metrics(store: WarehouseTables, runs: list[str]) -> list[list[dict[str, Any]]]:
    """Read the metrics of runs, one list per run."""
    rows = read_metrics(store, runs)
    return [[row for row in rows if row["run_id"] == run] for run in runs]


if __name__ == "__main__":
    run_submitted_step("gate")
