"""Decisions about which model is served, in the append-only table `decisions`.

Committing a decision switches the serving model. Decisions are ordered by their sequence number (see `delta_rows`). The
column `at` is the time on the host that made the decision; it does not affect the order. `serving.json` in the
warehouse, which model servers read, is written after the commit.

A manual decision stays in force until the candidate of a newer night is evaluated. Until then, the gate makes no
decisions on nights that had been evaluated before the manual decision.
"""

from __future__ import annotations

import datetime as dt
import getpass
import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

import pyarrow as pa

from star_ctr.conf.contracts.catalog import Warehouse
from star_ctr.conf.contracts.run_id import is_reference, make_run_id, strip_refit_suffix
from star_ctr.conf.errors import UserError
from star_ctr.conf.files import open_folder, write_json
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io import delta_rows
from star_ctr.jobs.registry.attempts import (
    Attempt,
    check_files,
    find_attempt,
    get_attempt_folder,
    get_published_attempt,
)

SERVING_FILE = "serving.json"
GATE = "gate"
"""Author of the gate's automatic decisions."""
_SCHEMA = delta_rows.describe_schema(
    "decisions",
    [
        ("at", pa.timestamp("us", "UTC")), ("ds", pa.string()), ("run_id", pa.string()), ("attempt", pa.int64()),
        ("reference_run_id", pa.string()), ("reference_attempt", pa.int64()), ("outcome", pa.string()),
        ("reason", pa.string()), ("by", pa.string()), ("evidence", pa.string()),
    ],
)  # fmt: skip


class Outcome(StrEnum):
    """Outcome of a decision on a run."""

    PROMOTED = "promoted"
    HELD = "held"
    TOO_SMALL = "not enough data"
    REFIT = "refit"
    REFIT_HELD = "refit held"
    PROMOTED_MANUALLY = "promoted manually"
    ROLLED_BACK = "rolled back"


_SERVING_OUTCOMES = (Outcome.PROMOTED, Outcome.REFIT, Outcome.PROMOTED_MANUALLY)
"""Outcomes for which the attempt of the decision becomes the serving model."""


@dataclass(frozen=True)
class Decision:
    """A decision on an attempt of night `ds`, with its author (`by`), reason and evidence.

    `reference_run_id` and `reference_attempt` name the serving attempt that the attempt was compared with (empty and
    None if no model was serving). For a rollback, `run_id` and `attempt` are served again, and the reference is the
    attempt that they replace. For a refit, served or held, the reference is the promoted attempt that it was made from.
    `sequence` is None until the decision is written.
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
        """Run id and attempt that the decision is about."""
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

    def read_all(self) -> list[Decision]:
        """Return all decisions, oldest first."""
        parsers: dict[str, Callable[[Any], Any]] = {"outcome": Outcome, "evidence": json.loads}
        rows = delta_rows.read_ordered_rows(self.table, _SCHEMA)
        return [Decision(**{k: parsers[k](v) if k in parsers else v for k, v in row.items()}) for row in rows]

    def add(self, decision: Decision, after: Sequence[Decision]) -> None:
        """Commit a decision, then update `serving.json`.

        Args:
            decision: The decision.
            after: All decisions that were known when it was made.

        Raises:
            SupersededError: Another decision has been written since `after` was read.
        """
        row = {**asdict(decision), "outcome": str(decision.outcome), "evidence": json.dumps(decision.evidence)}
        del row["sequence"]
        last = after[-1].sequence if after else -1
        delta_rows.add_row(self.table, row, _SCHEMA, last)
        self.update_pointer()

    def update_pointer(self) -> None:
        """Update `serving.json` to match the table, even if other processes write decisions at the same time."""
        switch, written = _find_last_switch(self.read_all()), None
        while switch is not None and switch != written:
            folder = get_attempt_folder(self.warehouse, *switch.model)
            model = {"run_id": switch.run_id, "attempt": switch.attempt, "model": str(folder.resolve())}
            origin = {"since": switch.at.isoformat(), "outcome": str(switch.outcome), "reason": switch.reason}
            write_json(open_folder(self.warehouse.root) / SERVING_FILE, {**model, **origin})
            switch, written = _find_last_switch(self.read_all()), switch

    def promote(self, run_id: str, reason: str, by: str | None = None, attempt: int | None = None) -> Decision:
        """Serve an attempt of a run, regardless of what the gate decided.

        Args:
            run_id: The run.
            reason: The reason to record.
            by: The author of the decision; the user of this process by default.
            attempt: The number of the attempt; the newest published one by default.

        Returns:
            The committed decision.

        Raises:
            UserError: The attempt is not published, is already serving, or is that of a reference.
            DataError: One of its files is damaged.
        """
        if is_reference(run_id):
            raise UserError(
                f"--run-id {run_id}: a reference is never served, because no later night continues from it; promote "
                "the run of the night instead"
            )
        chosen = check_files(get_published_attempt(self.warehouse, run_id, attempt))

        def decide(decided: list[Decision]) -> Decision:
            now = find_serving(decided)
            if now is not None and now.model == chosen.key:
                raise UserError(f"{chosen} is already serving, since {now.at:%Y-%m-%d %H:%M} ({now.outcome})")
            return Decision(
                chosen.record()["ds"], run_id, chosen.number, now.run_id if now else "", now.attempt if now else None,
                Outcome.PROMOTED_MANUALLY, reason, _check_author(by), {"metrics": self._read_metrics(chosen)},
            )  # fmt: skip

        return self._decide(decide, by)

    def rollback(self, reason: str, by: str | None = None) -> Decision:
        """Serve the previous serving attempt again; raises `UserError` if there was none."""

        def decide(decided: list[Decision]) -> Decision:
            stack = list_accepted(decided)
            if len(stack) < 2:
                raise UserError(f"{self.table}: there is no earlier serving model to roll back to")
            last, before = stack[-1], stack[-2]
            check_files(get_published_attempt(self.warehouse, *before.model))
            return Decision(before.ds, *before.model, *last.model, Outcome.ROLLED_BACK, reason, _check_author(by))

        return self._decide(decide, by)

    def _decide(self, decide: Callable[[list[Decision]], Decision], by: str | None) -> Decision:
        """Call `decide` with all decisions and commit its result; repeat if another decision is committed meanwhile."""
        # A manual decision does not take the lease: a night may run, and `star-ctr clean` may delete the model
        # meanwhile. In that case, another decision restores the previous serving model.
        self.update_pointer()  # an earlier command may have been killed before it wrote `serving.json`
        while True:
            decided = self.read_all()
            decision = decide(decided)
            try:
                self.add(decision, decided)
            except delta_rows.SupersededError:
                continue
            if find_attempt(self.warehouse, *decision.model) is None:
                before = find_serving(decided)
                if before is not None:
                    key, author = (before.ds, *before.model, *decision.model), _check_author(by)
                    self.add(Decision(*key, Outcome.PROMOTED_MANUALLY, "deleted", author), self.read_all())
                raise UserError(f"{decision.run_id}: `star-ctr clean` has just deleted this model; serve another one")
            return decision

    def _read_metrics(self, attempt: Attempt) -> list[dict[str, Any]]:
        """Read the metrics of an attempt, without Spark; empty if the table does not contain this attempt."""
        rows = delta_rows.read_rows(
            self.warehouse.table("metrics"), delta_rows.make_any_condition("run_id", [attempt.run_id])
        )
        return [row for row in rows if row.get("attempt") == attempt.number]


def _check_author(by: str | None) -> str:
    """Return the author, by default the user of this process; raises `UserError` for the name of the gate."""
    with suppress(KeyError, OSError):  # a container may run with a user id that has no name
        by = by or getpass.getuser()
    by = by or f"uid {os.getuid()}"
    if by == GATE:
        raise UserError(f"--by {GATE}: this name is reserved for the gate; pass the name of a person")
    return by


def list_accepted(decisions: Iterable[Decision]) -> list[Decision]:
    """Return the decisions in force, oldest first: the last one is serving, a rollback returns to the one before it."""
    stack: list[Decision] = []
    for decision in decisions:
        if decision.outcome in _SERVING_OUTCOMES:
            stack.append(decision)
        elif decision.outcome is Outcome.ROLLED_BACK:
            # A rollback also undoes decisions that were committed between its read and its own commit.
            while stack and stack[-1].model != decision.model:
                stack.pop()
    return stack


def find_accepted_before(settings: Settings, decisions: Iterable[Decision], ds: str) -> Decision | None:
    """Return this configuration's accepted decision of the newest night before `ds`; None if there is none."""
    accepted = [d for d in list_accepted(decisions) if d.ds < ds and d.run_id == make_run_id(settings, d.ds)]
    # If several attempts of the night were accepted, take the last one.
    return max(reversed(accepted), key=lambda d: d.ds, default=None)


def get_evaluated_attempt(decisions: Iterable[Decision], decision: Decision) -> tuple[str, int | None]:
    """Return the attempt whose metrics a decision relies on: for a refit, the attempt that it was made from."""
    if strip_refit_suffix(decision.run_id) == decision.run_id:
        return decision.model
    # Search for the decision that made the refit: if a person promoted it, the reference is the run that it replaced.
    refit_outcomes = (Outcome.REFIT, Outcome.REFIT_HELD)
    refits = [d for d in decisions if d.model == decision.model and d.outcome in refit_outcomes]
    return (
        (refits[-1].reference_run_id, refits[-1].reference_attempt)
        if refits
        else (strip_refit_suffix(decision.run_id), None)
    )


def find_serving(decisions: Sequence[Decision]) -> Decision | None:
    """Return the accepted decision on the serving model; None if no model is serving."""
    return next(reversed(list_accepted(decisions)), None)


class ManualOverride(NamedTuple):
    """A manual decision in force, and the newest night that had been evaluated when the decision was made."""

    decision: Decision
    night: str

    def __str__(self) -> str:
        """Return a description for messages."""
        d = self.decision
        return f"decided by {d.by} ({d.outcome}: {d.reason}); holds until a night after {self.night} is evaluated"


def find_manual_override(decisions: Sequence[Decision]) -> ManualOverride | None:
    """Return the manual decision that determines the serving model; None if the gate made the last such decision."""
    # A refit of a manually promoted model does not end the hold, and neither does the gate's rollback of that refit.
    refit_outcomes = (Outcome.REFIT, Outcome.ROLLED_BACK)
    switches = [
        k for k, d in enumerate(decisions) if _is_switch(d) and (d.is_manual or d.outcome not in refit_outcomes)
    ]
    last = switches[-1] if switches else None
    if last is None or not decisions[last].is_manual:
        return None
    return ManualOverride(decisions[last], max(d.ds for d in decisions[: last + 1]))


def _find_last_switch(decisions: Sequence[Decision]) -> Decision | None:
    """Return the last decision that changed the serving model, which may be a rollback; None if no model is serving."""
    if find_serving(decisions) is None:
        return None
    return next(d for d in reversed(decisions) if _is_switch(d))


def _is_switch(decision: Decision) -> bool:
    """Return whether a decision changes the serving model."""
    return decision.outcome in _SERVING_OUTCOMES or decision.outcome is Outcome.ROLLED_BACK
