"""What the morning page tells of, read from the warehouse without Spark: a night, and what stands beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from star_ctr.conf.contracts.catalog import DATA_RUN, Warehouse
from star_ctr.conf.contracts.dates import check_day
from star_ctr.conf.contracts.run_id import format_variant, hash_config, make_run_id, strip_refit_suffix
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.delta_rows import read_rows
from star_ctr.jobs.registry.decisions import Decision, Decisions, Outcome, find_serving
from star_ctr.workflows import status
from star_ctr.workflows.lease import is_held

NIGHTS = 14
"""So many nights, the newest ones, stand in what goes over days."""
UNDATED = "unknown"
"""Where the ledger counts rows whose day could not be read."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class ReportData:
    """A night of some settings, and what it is compared with; empty where there is no such thing.

    `nights`: rows of `metrics` by night, oldest first, and domain. `beside`: those of the serving model on this night's
    rows, `differences`: this night's model less that one, both by domain. `decisions`: those about this run, oldest
    first. `standing`: rows of `status.run`. `record_before`: the record of the night before.
    """

    settings: Settings
    ds: str
    run_id: str
    nights: dict[str, dict[str, Row]]
    beside: dict[str, Row] = field(default_factory=dict)
    differences: dict[str, Row] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    served: Decision | None = None
    ledger: Sequence[Row] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)
    record_before: dict[str, Any] = field(default_factory=dict)
    standing: Sequence[Row] = field(default_factory=list)

    @property
    def now(self) -> dict[str, Row]:
        """The night's metrics by domain."""
        return self.nights.get(self.ds, {})

    @property
    def before(self) -> str | None:
        """The newest night before this one that has metrics."""
        return max((ds for ds in self.nights if ds < self.ds), default=None)

    @property
    def model(self) -> str:
        """The model's name with its variant."""
        return format_variant(self.settings)

    @property
    def settings_hash(self) -> str:
        """The hash of the settings that make the model what it is."""
        return hash_config(self.settings)


def collect(settings: Settings, ds: str | None = None) -> ReportData:
    """The night `ds`, or the newest one that has metrics of these settings.

    `DataError` where there is no such night. A given one may also be without metrics, if anything of it was run.
    """
    tables = _Tables(settings)
    runs = {r[:10]: r for r in tables.runs("metrics") if make_run_id(settings, r[:10]) == r}
    # With a night given, later ones are none of the page's business.
    last = check_day(ds) if ds else None
    stand = status.read_staleness(settings, is_held(settings))
    standing = status.list_steps_status(stand, None, last, NIGHTS) if stand.nights() else []
    ds = last or max(runs, default=None)
    if ds is None or (ds not in runs and not any(r["ds"] == ds and r["at"] for r in standing)):
        known = f"; there are {', '.join(sorted(runs)[-5:])}" if runs else ""
        night = f"the night {ds}" if ds else "any night"
        raise DataError(
            f"{tables.warehouse.table('metrics')}: no metrics of {night} with these settings{known}; "
            f"run `star-ctr nightly{f' --ds {ds}' if ds else ''}` with the same --conf and --set"
        )
    this = make_run_id(settings, ds)
    nights = {d: _index_by_domain(tables.read("metrics", runs[d])) for d in sorted(runs) if d <= ds}
    decided = Decisions(settings).all()
    about = [d for d in decided if this in _list_runs(d)]
    against = next((d.reference_run_id for d in reversed(about) if d.run_id == this and d.reference_run_id), "")
    differences = [
        r for r in tables.read("differences", this) if not against or _find_run(r["reference_run_id"]) == against
    ]
    beside = differences[-1]["reference_run_id"] if differences else f"{against}@{ds}"
    shown = dict(sorted(nights.items())[-NIGHTS:])
    earlier = max((d for d in shown if d < ds), default=None)
    return ReportData(
        settings,
        ds,
        this,
        shown,
        beside=_index_by_domain(tables.read("metrics", beside)),
        differences=_index_by_domain(r for r in differences if r["reference_run_id"] == beside),
        decisions=about,
        served=find_serving(decided),
        ledger=_select_night(tables, this, ds),
        record=tables.record(this),
        record_before=tables.record(runs[earlier]) if earlier else {},
        standing=standing,
    )


def _list_runs(decision: Decision) -> tuple[str, ...]:
    """The judged runs that a decision is about: of a rollback also the one that is not served any more."""
    rolled_back = decision.outcome is Outcome.ROLLED_BACK
    return tuple(
        strip_refit_suffix(r)
        for r in ((decision.run_id, decision.reference_run_id) if rolled_back else (decision.run_id,))
    )


def _find_run(name: str) -> str:
    """The run that scores of another night's rows are of: `RUN@DAY`."""
    return name.partition("@")[0]


def _index_by_domain(rows: Any) -> dict[str, Row]:
    return {r["domain"]: r for r in rows}


def _select_night(tables: _Tables, run: str, ds: str) -> list[Row]:
    """The ledger's rows of a night: of the steps that all models share, of its run, and of rows without a day."""
    shared = [r for r in tables.read("ledger", DATA_RUN) if r["ds"] == ds or _is_lost_undated(r)]
    return [*shared, *tables.read("ledger", run)]


def _is_lost_undated(row: Row) -> bool:
    return bool(row["ds"] == UNDATED and row["reason"])


class _Tables:
    """Rows of the tables that are partitioned by run, and by nothing or something more."""

    def __init__(self, settings: Settings) -> None:
        self.warehouse = Warehouse(settings.paths)

    def runs(self, name: str) -> list[str]:
        """The runs that a table has rows of."""
        return sorted(r["run_id"] for r in read_rows(self.warehouse.table(name), columns=["DISTINCT run_id"]))

    def read(self, name: str, run: str) -> list[dict[str, Any]]:
        """The rows of a run."""
        return read_rows(self.warehouse.table(name), f"run_id = '{run}'")

    def record(self, run: str) -> dict[str, Any]:
        """The record of a run; empty where it was never trained to its end."""
        row = max(self.read("runs", run), key=lambda row: row["attempt"], default=None)
        return {**json.loads(row["record"]), "max_score_difference": row["max_score_difference"]} if row else {}
