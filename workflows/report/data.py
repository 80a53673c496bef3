"""Data of a night's report, read from the warehouse without Spark."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from star_ctr.conf.contracts.catalog import SHARED_RUN_ID, Warehouse
from star_ctr.conf.contracts.dates import check_day
from star_ctr.conf.contracts.domains import OVERALL
from star_ctr.conf.contracts.run_id import (
    format_variant,
    hash_config,
    is_reference,
    make_run_id,
    strip_refit_suffix,
)
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.delta_rows import make_any_condition, read_rows
from star_ctr.jobs.quality.jump_list import JumpList, read_jumps
from star_ctr.jobs.registry.decisions import Decision, Decisions, Outcome, find_serving
from star_ctr.jobs.registry.reference_gaps import find_incomparable_runs, read_gaps
from star_ctr.workflows import status
from star_ctr.workflows.lease import is_held

NIGHTS = 14
"""Maximum number of nights in charts and tables over several nights; the newest ones are shown."""
UNDATED = "unknown"
"""Value of `ds` in the ledger for rows whose day could not be read."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class ReportData:
    """The data of a night and what it is compared with. A field is empty if there is no such data.

    Attributes:
        settings: The settings.
        ds: The night as YYYY-MM-DD.
        run_id: The run of the night for these settings.
        nights: Rows of `metrics` by night, oldest first, and by domain. Contains at most `NIGHTS` nights up to `ds`.
        serving_metrics: Rows of `metrics` of the serving model on the rows of this night, by domain.
        final_metrics: Rows of `final_metrics` of this run, by domain; empty if no labels were open, or if
            some still are.
        outcome_metrics: Rows of `outcome_metrics` of the runs of `nights`, oldest night first.
        differences: Rows of `differences`: this night's model minus the serving model, by domain.
        decisions: The decisions about this run, oldest first.
        served: The decision that chose the model that is served now.
        ledger: Rows of `ledger` for this night.
        record: The training record of this run.
        record_before: The training record of the previous night.
        step_states: Rows of `status.run`: the states of the steps of the newest nights.
        importance: Rows of `importance` of this run: what its metrics lose without a feature.
        jumps: The measures of the data of this night that deviate from earlier days.
        gaps: Rows of `differences` over all domains: the models of this night and of earlier nights minus their
            references. Contains at most `NIGHTS` nights, oldest first.
        has_same_calibration: Whether the newest reference in `gaps` was calibrated as the night's run was.
    """

    settings: Settings
    ds: str
    run_id: str
    nights: dict[str, dict[str, Row]]
    serving_metrics: dict[str, Row] = field(default_factory=dict)
    final_metrics: dict[str, Row] = field(default_factory=dict)
    outcome_metrics: Sequence[Row] = field(default_factory=list)
    differences: dict[str, Row] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    served: Decision | None = None
    ledger: Sequence[Row] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)
    record_before: dict[str, Any] = field(default_factory=dict)
    step_states: Sequence[Row] = field(default_factory=list)
    importance: Sequence[Row] = field(default_factory=list)
    jumps: JumpList = field(default_factory=lambda: JumpList([], 0, 0))
    gaps: Sequence[Row] = field(default_factory=list)
    has_same_calibration: bool = True

    @property
    def metrics(self) -> dict[str, Row]:
        """The metrics of the night, by domain."""
        return self.nights.get(self.ds, {})

    @property
    def previous_night(self) -> str | None:
        """The newest earlier night that has metrics."""
        return max((ds for ds in self.nights if ds < self.ds), default=None)

    @property
    def model(self) -> str:
        """The name of the model with its variant."""
        return format_variant(self.settings)

    @property
    def settings_hash(self) -> str:
        """The hash of the settings that affect the trained model."""
        return hash_config(self.settings)


def collect(settings: Settings, ds: str | None = None) -> ReportData:
    """Read the data of a night.

    Args:
        settings: The settings.
        ds: The night as YYYY-MM-DD. It may have no metrics, as long as one of its steps has run. By default, the newest
            night that has metrics with these settings.

    Returns:
        The data of the report.

    Raises:
        DataError: There is no such night.
    """
    tables = _Tables(settings)
    runs = {r[:10]: r for r in tables.list_runs("metrics") if make_run_id(settings, r[:10]) == r}
    # The report of a given night does not show later nights.
    last = check_day(ds) if ds else None
    staleness = status.read_staleness(settings, is_held(settings))
    states = status.list_steps_status(staleness, None, last, NIGHTS) if staleness.list_nights() else []
    ds = last or max(runs, default=None)
    if ds is None or (ds not in runs and not any(r["ds"] == ds and r["at"] for r in states)):
        known = f" (nights with metrics: {', '.join(sorted(runs)[-5:])})" if runs else ""
        night = f"the night {ds}" if ds else "any night"
        raise DataError(
            f"{tables.warehouse.table('metrics')}: no metrics of {night} with these settings{known}; "
            f"run `star-ctr nightly{f' --ds {ds}' if ds else ''}` with the same --conf and --set"
        )
    run_id = make_run_id(settings, ds)
    nights = {d: _index_by_domain(tables.read_run("metrics", runs[d])) for d in sorted(runs) if d <= ds}
    all_decisions = Decisions(settings).read_all()
    decisions = [d for d in all_decisions if run_id in _list_runs(d)]
    reference = next((d.reference_run_id for d in reversed(decisions) if d.run_id == run_id and d.reference_run_id), "")
    differences = [
        r
        for r in tables.read_run("differences", run_id)
        if not is_reference(r["reference_run_id"]) and (not reference or _strip_day(r["reference_run_id"]) == reference)
    ]
    scored_reference = differences[-1]["reference_run_id"] if differences else f"{reference}@{ds}"
    shown = dict(sorted(nights.items())[-NIGHTS:])
    earlier = max((d for d in shown if d < ds), default=None)
    gaps = _read_gaps(settings, nights)
    return ReportData(
        settings,
        ds,
        run_id,
        shown,
        serving_metrics=_index_by_domain(tables.read_run("metrics", scored_reference)),
        final_metrics=_index_by_domain(
            r
            for r in tables.read_run("final_metrics", run_id)
            if r.get("attempt") in _list_attempts(nights.get(ds, {}))
        ),
        outcome_metrics=tables.read_outcome_metrics([runs[d] for d in shown]),
        differences=_index_by_domain(r for r in differences if r["reference_run_id"] == scored_reference),
        decisions=decisions,
        served=find_serving(all_decisions),
        ledger=_read_ledger(tables, run_id, ds),
        importance=[
            r for r in tables.read_run("importance", run_id) if r["attempt"] in _list_attempts(nights.get(ds, {}))
        ],
        record=tables.read_record(run_id),
        record_before=tables.read_record(runs[earlier]) if earlier else {},
        step_states=states,
        jumps=read_jumps(settings, ds),
        gaps=gaps,
        has_same_calibration=not find_incomparable_runs(settings, gaps[-1:]),
    )


def _read_gaps(settings: Settings, nights: Mapping[str, dict[str, Row]]) -> Sequence[Row]:
    """Read the overall gaps of the newest nights that have a reference."""
    if settings.reference is None:
        return []
    attempts = {row["run_id"]: row.get("attempt") for rows in nights.values() for row in rows.values()}
    return [gap for gap in read_gaps(settings, attempts) if gap["domain"] == OVERALL][-NIGHTS:]


def _list_attempts(metrics: Mapping[str, Row]) -> set[int | None]:
    """Return the attempts that metrics are of; at most one."""
    return {row.get("attempt") for row in metrics.values()}


def _list_runs(decision: Decision) -> tuple[str, ...]:
    """Return the evaluated runs that a decision is about; for a rollback, also the run that was replaced."""
    rolled_back = decision.outcome is Outcome.ROLLED_BACK
    return tuple(
        strip_refit_suffix(r)
        for r in ((decision.run_id, decision.reference_run_id) if rolled_back else (decision.run_id,))
    )


def _strip_day(scored_run: str) -> str:
    """Return the run id of `RUN@DAY`, which names the scores of a run on the rows of another night."""
    return scored_run.partition("@")[0]


def _index_by_domain(rows: Any) -> dict[str, Row]:
    return {r["domain"]: r for r in rows}


def _read_ledger(tables: _Tables, run: str, ds: str) -> list[Row]:
    """Read the ledger of a night: rows of the steps that all models share, rows of the run, and rows without a day."""
    shared = [r for r in tables.read_run("ledger", SHARED_RUN_ID) if r["ds"] == ds or _is_lost_undated(r)]
    return [*shared, *tables.read_run("ledger", run)]


def _is_lost_undated(row: Row) -> bool:
    """Return whether a ledger row counts rows that were left out and have no day."""
    return bool(row["ds"] == UNDATED and row["reason"])


class _Tables:
    """Reader of tables with a column `run_id`."""

    def __init__(self, settings: Settings) -> None:
        self.warehouse = Warehouse(settings.paths)

    def list_runs(self, name: str) -> list[str]:
        """Return the ids of the runs in a table, sorted."""
        return sorted(r["run_id"] for r in read_rows(self.warehouse.table(name), columns=["DISTINCT run_id"]))

    def read_run(self, name: str, run: str) -> list[dict[str, Any]]:
        """Read the rows of a run from a table."""
        return read_rows(self.warehouse.table(name), f"run_id = '{run}'")

    def read_outcome_metrics(self, runs: Sequence[str]) -> list[dict[str, Any]]:
        """Read the metrics of further outcomes of some runs, sorted by night."""
        where = make_any_condition("run_id", runs) if runs else "false"
        return sorted(read_rows(self.warehouse.table("outcome_metrics"), where), key=lambda row: row["ds"])

    def read_record(self, run: str) -> dict[str, Any]:
        """Read the training record of the newest attempt of a run; empty if the run has no finished attempt."""
        row = max(self.read_run("runs", run), key=lambda row: row["attempt"], default=None)
        return {**json.loads(row["record"]), "max_score_difference": row["max_score_difference"]} if row else {}
