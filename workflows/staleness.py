"""What is done and still valid: each step of a night against what it would stand on if it were run now.

A step's contents are decided by its settings, by the code that it imports and by what it reads, so a step whose entry
in the journal stands on the same is not run again. What it reads is told by the entry of the step before, which stands
on its own in the same way; for the tables that ingest writes by their contents, day by day, since the logs' files may
change without a day of theirs changing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from functools import cache, cached_property

from star_ctr.conf.contracts.dates import BEFORE_FIRST_DAY, NO_DAY, list_days_before, list_window_days
from star_ctr.conf.contracts.fingerprint import hash_code, hash_json
from star_ctr.conf.contracts.pipeline import STEPS
from star_ctr.conf.contracts.run_id import (
    hash_config,
    hash_features_settings,
    hash_ingest_settings,
    hash_split_settings,
    make_run_id,
)
from star_ctr.conf.errors import UserError
from star_ctr.conf.settings.root import Settings
from star_ctr.conf.settings.trainer import ACCEPTED, PREVIOUS
from star_ctr.jobs.io import log_files
from star_ctr.jobs.registry.decisions import Decision, find_accepted_before
from star_ctr.jobs.registry.warm_starts import find_start
from star_ctr.workflows.journal import Entry

UNDATED = (NO_DAY, BEFORE_FIRST_DAY)


class State(StrEnum):
    """How a step of a night stands."""

    DONE = "done"
    STALE = "stale"
    RUNNING = "running"
    FAILED = "failed"
    MISSING = "missing"
    REMOVED = "removed"


class Staleness:
    """How the nights of some settings stand, by the journal's entries and the logs' files.

    `decisions`: those of the gate and of people. `busy`: whether a process is writing to the warehouse now; if none is,
    what began and did not end was killed.
    """

    def __init__(
        self, settings: Settings, entries: Iterable[Entry], busy: bool, decisions: Sequence[Decision] = ()
    ) -> None:
        self.settings, self.busy, self.decisions = settings, busy, decisions
        self.entries = list(entries)
        self._newest: dict[tuple[str, str, str], Entry] = {}
        for entry in self.entries:
            self._newest[entry.key] = entry
        self._known: dict[tuple[str, str], tuple[State, str]] = {}

    def nights(self) -> list[str]:
        """The nights of which anything was run, oldest first."""
        return sorted({ds for ds, step, run in self._newest if run in ("", make_run_id(self.settings, ds))})

    def find_removed_start(self, ds: str, step: str) -> str | None:
        """Return the earlier night that a step starts from if its results were removed; None otherwise."""
        start = (self._start(ds), "train")
        needed = {"split": [(self._find_vocabulary_night(ds), "split"), start], "train": [start]}.get(step, [])
        for night, before in needed:
            entry = self.entry(night, before) if night else None
            if entry is not None and entry.state == "removed":
                return night
        return None

    def get_run_id(self, ds: str, step: str) -> str:
        """The run that an entry of a step is of."""
        return make_run_id(self.settings, ds) if STEPS[step].per_run else ""

    def entry(self, ds: str, step: str) -> Entry | None:
        """The newest entry of a step of a night."""
        return self._newest.get((ds, step, self.get_run_id(ds, step)))

    def state(self, ds: str, step: str) -> tuple[State, str]:
        """The state of a step of a night, and why it is that one."""
        if (ds, step) not in self._known:
            self._known[ds, step] = self._compute_state(ds, step)
        return self._known[ds, step]

    def _compute_state(self, ds: str, step: str) -> tuple[State, str]:
        entry = self.entry(ds, step)
        if entry is None:
            return State.MISSING, "never run"
        if entry.state == "running":
            return (State.RUNNING, entry.process) if self.busy else (State.FAILED, f"{entry.process} was killed")
        if entry.state == "failed":
            return State.FAILED, entry.error
        for before, of in self._list_dependencies(ds, step):
            state, _ = self.state(before, of)
            if state not in (State.DONE, State.REMOVED):
                return State.STALE, f"{of} of {before} is {state}" if before != ds else f"{of} is {state}"
        now = self.hash_inputs(ds, step)
        changed = [k for k in {**entry.inputs, **now} if entry.inputs.get(k) != now.get(k)]
        if changed:
            return State.STALE, f"changed since: {', '.join(_WORDS.get(k, k) for k in changed)}"
        if step == "ingest" and (days := self._find_overwritten(entry)):
            return State.STALE, f"another night has since written other contents of {', '.join(days)}"
        return (State.REMOVED, entry.why) if entry.state == "removed" else (State.DONE, "")

    def _list_dependencies(self, ds: str, step: str) -> list[tuple[str, str]]:
        """The steps, with their nights, that one stands on."""
        names = list(STEPS)
        number = names.index(step)
        before = [(ds, names[number - 1])] if number else []
        # The split keeps the encoding of the run to start from, so it depends on the split of that run's night.
        earlier = {"train": [self._start(ds)], "split": [self._find_vocabulary_night(ds), self._start(ds)]}.get(
            step, []
        )
        return [*before, *((night, step) for night in dict.fromkeys(earlier) if night)]

    def _start(self, ds: str) -> str | None:
        """The night whose model a night's training goes on from, if it is one of this configuration's."""
        match self.settings.trainer.warm_start:
            case "previous":
                return self._find_newest_before(ds, "train")
            case "accepted":
                found = find_accepted_before(self.settings, self.decisions, ds)
                return found.ds if found else None
        return None

    def _find_vocabulary_night(self, ds: str) -> str | None:
        return None if self.settings.split.vocabulary == "fitted" else self._find_newest_before(ds, "split")

    def _find_newest_before(self, ds: str, step: str) -> str | None:
        # Also one that failed or was killed: it was to be what this night stands on.
        return max((e.ds for e in self.entries if e.step == step and e.ds < ds and self._is_mine(e)), default=None)

    def _is_mine(self, entry: Entry) -> bool:
        return entry.run_id == self.get_run_id(entry.ds, entry.step)

    def hash_inputs(self, ds: str, step: str) -> dict[str, str]:
        """Hashes of all that decides what a step would write now."""
        on = {"settings": self._hash_settings(step), "code": _hash_step_code(step)}
        if step == "ingest":
            days = list_window_days(self.settings, ds)
            for name, found in self._files.items():
                reach = getattr(self.settings.logs.declared()[name], "duplicate_days", 0)
                since = None if name in log_files.REACH_BACK else [*list_days_before(days[0], reach), days[0]][0]
                on[f"logs.{name}"] = log_files.hash_files(found, since, ds)
            return on
        if step == "features":
            on["contents"] = hash_json(
                {t: {d: c for d, c in of.items() if d in UNDATED or d <= ds} for t, of in self.table_hashes.items()}
            )
        if step in ("split", "train") and self.settings.trainer.warm_start not in (None, PREVIOUS, ACCEPTED):
            on["warm_start"] = self._hash_named_start(ds, step)
        for night, before in self._list_dependencies(ds, step):
            entry = self.entry(night, before)
            if before != "ingest":
                on[before if night == ds else f"{before} of {night}"] = hash_json(entry.inputs if entry else None)
        return on

    def _hash_named_start(self, ds: str, step: str) -> str:
        """Hash what a step reads from the run that `trainer.warm_start` names, which may have no entry in this journal.

        With `previous` and `accepted`, the run is an earlier night of this configuration, which has its own entries.
        """
        try:
            start = find_start(self.settings, ds)
            assert start is not None
            return start.hash_numbers() if step == "split" else start.hash_weights()
        except UserError:  # the step raises it too
            return f"{self.settings.trainer.warm_start} cannot be used"

    def _hash_settings(self, step: str) -> str:
        match step:
            case "ingest":
                return hash_ingest_settings(self.settings)
            case "features":
                return hash_json([hash_features_settings(self.settings), self.settings.window.days])
            case "split":
                return hash_split_settings(self.settings)
            case "gate":
                return hash_json(self.settings.gate.model_dump(mode="json", exclude={"publish"}))
        of_run = [hash_config(self.settings), self.settings.trainer.seed]
        return hash_json([*of_run, self.settings.evaluate.model_dump(mode="json")] if step == "evaluate" else of_run)

    @cached_property
    def _files(self) -> dict[str, list[log_files.LogFile]]:
        return {name: log_files.list_files(self.settings, name) for name in self.settings.logs.declared()}

    @cached_property
    def table_hashes(self) -> dict[str, dict[str, str]]:
        """What each day of each ingested table holds now, by the last ingest that wrote it."""
        found: dict[str, dict[str, str]] = {}
        for entry in self.entries:
            if entry.step == "ingest" and entry.state == "done":
                for table, days in entry.outputs.items():
                    of_table = found.setdefault(table, {})
                    if table not in log_files.REACH_BACK:
                        for day in [
                            d for d in of_table if d in UNDATED or d in list_window_days(self.settings, entry.ds)
                        ]:
                            del of_table[day]
                    else:  # replaced up to the night, including deleted days
                        for day in [d for d in of_table if d in UNDATED or d <= entry.ds]:
                            del of_table[day]
                    of_table.update(days)
        return found

    def _find_overwritten(self, entry: Entry) -> list[str]:
        """Days that do not hold any more what an ingest wrote."""
        return sorted(
            {
                day
                for table, days in entry.outputs.items()
                for day, content in days.items()
                if self.table_hashes[table].get(day) != content
            }
        )

    def find_last_writer(self, ds: str) -> str | None:
        """The night that wrote the features of day `ds` last, by the nights' windows."""
        writers = [e for e in self.entries if e.step == "features" and ds in list_window_days(self.settings, e.ds)]
        return writers[-1].ds if writers else None


@cache
def _hash_step_code(step: str) -> str:
    return hash_code([f"star_ctr.jobs.{step}"])


_WORDS: Mapping[str, str] = {
    "settings": "the settings that it reads",
    "code": "its code",
    "contents": "what ingest wrote",
    "warm_start": "the run that training starts from",
    **{step: f"what {step} stands on" for step in STEPS},
}
