"""Decisions: which model is served, and every decision that led there, in a table that only grows.

A commit to the table switches the serving model. Decisions are ordered by their sequence number (see `rows`); `at` is
the time on the host that decided, and does not affect the order. `serving.json` in the warehouse, which model servers
read, is written after the commit.

A manual decision holds until the candidate of a newer night is judged. Until then, the gate makes no decisions on
nights that had been judged before it.
"""

from __future__ import annotations

import datetime as dt
import getpass
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from star_ctr.conf.contracts.catalog import Warehouse
from star_ctr.conf.contracts.run_id import make_run_id, strip_refit_suffix
from star_ctr.conf.errors import UserError
from star_ctr.conf.files import write_json
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.delta_rows import SupersededError, add_row, make_any_condition, read_ordered_rows, read_rows
from star_ctr.jobs.registry.attempts import (
    Attempt,
    check_files,
    find_attempt,
    get_attempt_folder,
    get_published_attempt,
)

POINTER = "serving.json"
GATE = "gate"
"""Author of automatic decisions."""
_SCHEMA = pa.schema(
    [
        ("at", pa.timestamp("us", "UTC")), ("ds", pa.string()), ("run_id", pa.string()), ("attempt", pa.int64()),
        ("reference_run_id", pa.string()), ("reference_attempt", pa.int64()), ("outcome", pa.string()), ("reason", pa.string()),
        ("by", pa.string()), ("evidence", pa.string()),
    ]
)  # fmt: skip


class Outcome(StrEnum):
    """What was decided of a run."""

    PROMOTED = "promoted"
    HELD = "held"
    TOO_SMALL = "not enough data"
    REFIT = "refit"
    REFIT_HELD = "refit held"
    PROMOTED_MANUALLY = "promoted manually"
    ROLLED_BACK = "rolled back"


_SERVING_OUTCOMES = (Outcome.PROMOTED, Outcome.REFIT, Outcome.PROMOTED_MANUALLY)
"""Outcomes that make the attempt of the decision the serving model."""


@dataclass(frozen=True)
class Decision:
    """A decision on an attempt: the night, the serving attempt it was compared with (empty if none), by whom and why.

    For a rollback, `run_id` and `attempt` are served again, and `against` is the run that they replace. For a refit,
    served or held, `against` is the promoted attempt that it was made from. `sequence` is None until the decision is
    written.
    """

    ds: str
    run_id: str
    attempt: int
    reference_run_id: str
    reference_attempt: int | None
    outcome: Outcome
    reason: str
    by: str = GATE
    evidence: dict[str, Any] = field(default_factory=dict)
    at: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))
    sequence: int | None = None

    @property
    def model(self) -> tuple[str, int]:
        """Run and attempt that the decision is about."""
        return self.run_id, self.attempt

    @property
    def is_manual(self) -> bool:
        """Whether a person made the decision."""
        return self.by != GATE


class Decisions:
    """The decisions of a warehouse, in the order in which they were written."""

    def __init__(self, settings: Settings) -> None:
        self.warehouse = Warehouse(settings.paths)
        self.table = self.warehouse.table("decisions")

    def all(self) -> list[Decision]:
        """Return all decisions, oldest first."""
        read: dict[str, Callable[[Any], Any]] = {"outcome": Outcome, "evidence": json.loads}
        # Tables from before there were attempts lack their columns.
        rows = [{"attempt": 1, "reference_attempt": None, **row} for row in read_ordered_rows(self.table)]
        return [Decision(**{k: read[k](v) if k in read else v for k, v in row.items()}) for row in rows]

    def add(self, decision: Decision, after: Sequence[Decision]) -> None:
        """Commit a decision, then update the pointer.

        Args:
            decision: The decision.
            after: All decisions that it is based on.

        Raises:
            SupersededError: Another decision has been written since `after` was read.
        """
        row = {**asdict(decision), "outcome": str(decision.outcome), "evidence": json.dumps(decision.evidence)}
        del row["sequence"]
        last = after[-1].sequence if after else -1
        add_row(self.table, row, _SCHEMA, last)
        self.update_pointer()

    def update_pointer(self) -> None:
        """Update `serving.json` to match the table, even if other processes write decisions at the same time."""
        if "://" in self.warehouse.root:
            return
        switch, written = _find_last_switch(self.all()), None
        while switch is not None and switch != written:
            folder = get_attempt_folder(self.warehouse, *switch.model)
            said = {"run_id": switch.run_id, "attempt": switch.attempt, "model": str(folder.resolve())}
            more = {"since": switch.at.isoformat(), "outcome": str(switch.outcome), "reason": switch.reason}
            write_json(Path(self.warehouse.root) / POINTER, {**said, **more})
            switch, written = _find_last_switch(self.all()), switch

    def promote(self, run_id: str, why: str, by: str | None = None, attempt: int | None = None) -> Decision:
        """Serve an attempt of a run (the newest if not given), regardless of what the gate decided.

        Raises:
            UserError: The attempt is not published, or is already serving.
            DataError: One of its files is damaged.
        """
        chosen = check_files(get_published_attempt(self.warehouse, run_id, attempt))

        def decide(decided: list[Decision]) -> Decision:
            now = find_serving(decided)
            if now is not None and now.model == chosen.key:
                raise UserError(f"{chosen} is already serving, since {now.at:%Y-%m-%d %H:%M} ({now.outcome})")
            return Decision(
                chosen.record()["ds"],
                run_id,
                chosen.number,
                now.run_id if now else "",
                now.attempt if now else None,
                Outcome.PROMOTED_MANUALLY,
                why,
                _check_author(by),
                {"metrics": self._metrics(chosen)},
            )

        return self._decide(decide, by)

    def rollback(self, why: str, by: str | None = None) -> Decision:
        """Serve the previous serving attempt again; raises `UserError` if there is none."""

        def decide(decided: list[Decision]) -> Decision:
            stack = list_accepted(decided)
            if len(stack) < 2:
                raise UserError(f"{self.table}: there is no earlier serving model to roll back to")
            last, before = stack[-1], stack[-2]
            check_files(get_published_attempt(self.warehouse, *before.model))
            return Decision(before.ds, *before.model, *last.model, Outcome.ROLLED_BACK, why, _check_author(by))

        return self._decide(decide, by)

    def _decide(self, decide: Callable[[list[Decision]], Decision], by: str | None) -> Decision:
        """Call `decide` with all decisions and commit its result; repeat if another decision is committed meanwhile.

        People decide without the lease, while nights run. If `star-ctr clean` deletes the model meanwhile, the decision
        is taken back.
        """
        self.update_pointer()  # an earlier command may have been killed before it wrote `serving.json`
        while True:
            decided = self.all()
            decision = decide(decided)
            try:
                self.add(decision, decided)
            except SupersededError:
                continue
            if find_attempt(self.warehouse, *decision.model) is None:
                before = find_serving(decided)
                if before is not None:
                    undo = Decision(
                        before.ds,
                        *before.model,
                        *decision.model,
                        Outcome.PROMOTED_MANUALLY,
                        "deleted",
                        _check_author(by),
                    )
                    self.add(undo, self.all())
                raise UserError(f"{decision.run_id}: `star-ctr clean` has just deleted this model; serve another one")
            return decision

    def _metrics(self, attempt: Attempt) -> list[dict[str, Any]]:
        """Read the metrics of an attempt, without Spark; empty if the table only holds those of another attempt."""
        rows = read_rows(self.warehouse.table("metrics"), make_any_condition("run_id", [attempt.run_id]))
        return [row for row in rows if row.get("attempt") == attempt.number]


def _check_author(by: str | None) -> str:
    """Return the name of the person who decides; raises `UserError` for the name of the gate."""
    by = by or getpass.getuser()
    if by == GATE:
        raise UserError(f"--by {GATE}: this name is reserved for the gate; pass the name of a person")
    return by


def list_accepted(decisions: Iterable[Decision]) -> list[Decision]:
    """Return the decisions that are in force: the last one is serving, and a rollback returns to the one before it."""
    stack: list[Decision] = []
    for decision in decisions:
        if decision.outcome in _SERVING_OUTCOMES:
            stack.append(decision)
        elif decision.outcome is Outcome.ROLLED_BACK:
            # A rollback also undoes decisions that were committed between its read and its write.
            while stack and stack[-1].model != decision.model:
                stack.pop()
    return stack


def find_accepted_before(settings: Settings, decisions: Iterable[Decision], ds: str) -> Decision | None:
    """Return this configuration's accepted decision of the newest night before `ds`; None if there is none."""
    mine = [d for d in list_accepted(decisions) if d.ds < ds and d.run_id == make_run_id(settings, d.ds)]
    # If several attempts of the night were accepted, take the last one.
    return max(reversed(mine), key=lambda d: d.ds, default=None)


def get_evaluated_attempt(decisions: Iterable[Decision], decision: Decision) -> tuple[str, int | None]:
    """Return the attempt whose metrics a decision relies on: for a refit, the attempt that it was made from."""
    if strip_refit_suffix(decision.run_id) == decision.run_id:
        return decision.model
    # If a person promoted the refit, `against` of that decision is the run that it replaced.
    of_refits = (Outcome.REFIT, Outcome.REFIT_HELD)
    made = [d for d in decisions if d.model == decision.model and d.outcome in of_refits]
    return (
        (made[-1].reference_run_id, made[-1].reference_attempt) if made else (strip_refit_suffix(decision.run_id), None)
    )


def find_serving(decisions: Sequence[Decision]) -> Decision | None:
    """Return the decision that the serving model comes from; None if there is none."""
    return next(reversed(list_accepted(decisions)), None)


class Hold(NamedTuple):
    """A manual decision that is in force, and the newest night that had been judged when it was made."""

    decision: Decision
    night: str

    def __str__(self) -> str:
        """Return the description for messages."""
        d = self.decision
        return f"decided by {d.by} ({d.outcome}: {d.reason}); holds until a night after {self.night} is judged"


def find_manual_hold(decisions: Sequence[Decision]) -> Hold | None:
    """Return the manual decision that determines the serving model; None if the gate made the last such decision."""
    # The refit of a manually promoted model does not end the hold, and neither does the rollback of the refit.
    of_refits = (Outcome.REFIT, Outcome.ROLLED_BACK)
    switches = [k for k, d in enumerate(decisions) if _switches(d) and (d.is_manual or d.outcome not in of_refits)]
    last = switches[-1] if switches else None
    if last is None or not decisions[last].is_manual:
        return None
    return Hold(decisions[last], max(d.ds for d in decisions[: last + 1]))


def _find_last_switch(decisions: Sequence[Decision]) -> Decision | None:
    """Return the decision that made the serving model serve, which may be a rollback; None if no model is serving."""
    if find_serving(decisions) is None:
        return None
    return next(d for d in reversed(decisions) if _switches(d))


def _switches(decision: Decision) -> bool:
    return decision.outcome in _SERVING_OUTCOMES or decision.outcome is Outcome.ROLLED_BACK
