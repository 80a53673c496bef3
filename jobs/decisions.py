"""Decisions: which model is served, and every decision that led there, in a table that only grows.

The latest decisions are in force, and a commit to the table switches the serving model. Decisions are ordered by commit
(`rows`); `at` is the time on the host that decided, and does not affect the order. `serving.json` in the warehouse,
which model servers read, is written after the commit.
"""

from __future__ import annotations

import datetime as dt
import getpass
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow as pa

from star_ctr.conf.errors import UserError
from star_ctr.conf.files import write_json
from star_ctr.conf.identity import run_id
from star_ctr.conf.settings import Settings
from star_ctr.conf.tables import Warehouse
from star_ctr.jobs.rows import add_row, ordered_rows

POINTER = "serving.json"
_SCHEMA = pa.schema(
    [
        ("at", pa.timestamp("us", "UTC")), ("ds", pa.string()), ("run_id", pa.string()), ("against", pa.string()),
        ("outcome", pa.string()), ("reason", pa.string()), ("by", pa.string()), ("facts", pa.string()),
    ]
)  # fmt: skip


class Outcome(StrEnum):
    """What was decided of a run."""

    PROMOTED = "promoted"
    HELD = "held"
    TOO_SMALL = "not enough data"
    REFIT = "refit"
    REFIT_HELD = "refit held"
    OVERRIDDEN = "overridden"
    ROLLED_BACK = "rolled back"


@dataclass(frozen=True)
class Decision:
    """One decision: on which night, of which run, against which serving one (empty if none), by whom and why.

    For a rollback, `run_id` is the run that is served again, and `against` the one that it replaces. For a refit,
    served or held, `against` is the promoted run that it was made from.
    """

    ds: str
    run_id: str
    against: str
    outcome: Outcome
    reason: str
    by: str = "gate"
    facts: dict[str, Any] = field(default_factory=dict)
    at: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))


class Decisions:
    """The decisions of a warehouse, in the order in which they were written."""

    def __init__(self, settings: Settings) -> None:
        self.warehouse = Warehouse(settings.paths)
        self.table = self.warehouse.table("decisions")

    def all(self) -> list[Decision]:
        """All of them; none where nothing was ever decided."""
        read: dict[str, Callable[[Any], Any]] = {"outcome": Outcome, "facts": json.loads}
        rows = ordered_rows(self.table)
        return [Decision(**{k: read[k](v) if k in read else v for k, v in row.items()}) for row in rows]

    def add(self, decision: Decision) -> None:
        """Write a decision down, which is what makes it hold, and then the pointer."""
        row = {**asdict(decision), "outcome": str(decision.outcome), "facts": json.dumps(decision.facts)}
        add_row(self.table, row, _SCHEMA)
        self.point()

    def point(self) -> None:
        """Update `serving.json` to match the table, even if other processes write decisions at the same time."""
        if "://" in self.warehouse.root:
            return
        served, written = serving(self.all()), None
        while served is not None and served != written:
            said = {"run_id": served.run_id, "model": str(Path(self.warehouse.model(served.run_id)).resolve())}
            more = {"since": served.at.isoformat(), "outcome": str(served.outcome), "reason": served.reason}
            write_json(Path(self.warehouse.root) / POINTER, {**said, **more})
            served, written = serving(self.all()), served

    def promote(self, run_id: str, why: str, by: str | None = None) -> Decision:
        """Serve a run whatever the gate said of it; `UserError` for one that was not exported."""
        if run_id not in (there := self.warehouse.finished()):
            raise UserError(f"--run-id {run_id}: no finished run; the newest are {', '.join(there[-5:]) or 'none'}")
        now = serving(self.all())
        if now is not None and now.run_id == run_id:
            raise UserError(f"{run_id} is being served, since {now.at:%Y-%m-%d %H:%M} ({now.outcome})")
        record = json.loads((Path(self.warehouse.model(run_id)) / "record.json").read_text(encoding="utf-8"))
        against = now.run_id if now else ""
        decision = Decision(record["ds"], run_id, against, Outcome.OVERRIDDEN, why, by or getpass.getuser())
        self.add(decision)
        return decision

    def rollback(self, why: str, by: str | None = None) -> Decision:
        """Serve the run that was served before this one; `UserError` where there was none."""
        stack = accepted(self.all())
        if len(stack) < 2:
            raise UserError(f"{self.table}: no model was served before the one that is; nothing to go back to")
        last, before = stack[-1], stack[-2]
        decision = Decision(before.ds, before.run_id, last.run_id, Outcome.ROLLED_BACK, why, by or getpass.getuser())
        self.add(decision)
        return decision


def accepted(decisions: Iterable[Decision]) -> list[Decision]:
    """The decisions whose runs stand: the last one is served, the one before would be after a rollback."""
    stack: list[Decision] = []
    for decision in decisions:
        if decision.outcome in (Outcome.PROMOTED, Outcome.REFIT, Outcome.OVERRIDDEN):
            stack.append(decision)
        elif decision.outcome is Outcome.ROLLED_BACK and stack:
            stack.pop()
    return stack


def accepted_before(settings: Settings, decisions: Iterable[Decision], ds: str) -> str | None:
    """The newest night before `ds` whose run, of this configuration, stands accepted; None where there is none."""
    nights = [d.ds for d in accepted(decisions) if d.ds < ds and d.run_id == run_id(settings, d.ds)]
    return max(nights, default=None)


def serving(decisions: Sequence[Decision]) -> Decision | None:
    """The decision that put the serving model there; None where there is none."""
    return next(reversed(accepted(decisions)), None)
