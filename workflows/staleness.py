"""States of steps: which steps of which nights are done and up to date, and why the others are not.

The results of a step are determined by its settings, by the code that it imports, and by the data that it reads. The
journal holds a hash of each of them for every step that has run (the input fingerprint):

1. Compute the current input fingerprint of the step.
2. Compare it with the fingerprint in the step's last entry in the journal. If they differ, the step is stale.
3. A step is also stale if a step that it depends on is neither done nor removed.
4. `ingest` is also stale if another night has since ingested different rows for its days.

The data that a step reads is not hashed again. Its hash is the input fingerprint of the step that wrote it, because
equal inputs give equal results. `ingest` is the exception: log files may change although the rows of a day do not. For
the tables that ingest writes, the fingerprint of `features` contains a hash of the rows of each day. New rows of a log
without days belong to later nights, so changes of its files do not make a night stale that has ingested it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import cache, cached_property

from star_ctr.conf.contracts.dates import (
    UNDATED,
    list_calibration_nights,
    list_days_before,
    list_reference_calibration_nights,
    list_window_days,
)
from star_ctr.conf.contracts.fingerprint import hash_code, hash_json
from star_ctr.conf.contracts.pipeline import STEPS, find_required_step
from star_ctr.conf.contracts.run_id import make_run_id
from star_ctr.conf.errors import UserError
from star_ctr.conf.settings.root import Settings
from star_ctr.conf.settings.trainer import ACCEPTED, PREVIOUS
from star_ctr.jobs.io import log_files
from star_ctr.jobs.io.ingest_plan import has_log_days
from star_ctr.jobs.registry.decisions import Decision, find_accepted_before
from star_ctr.jobs.registry.warm_starts import find_start
from star_ctr.workflows.journal import Entry
from star_ctr.workflows.step_settings import hash_step_settings
from star_ctr.workflows.step_states import STATE_TEXTS, State, describe_input


class Staleness:
    """The states of all steps, computed from the journal and the log files.

    Results are cached, so create a new object after a step has run.

    Args:
        settings: The settings.
        entries: The entries of the journal, in commit order.
        busy: Whether a process is writing to the warehouse. If not, a step that started but did not end was killed.
        decisions: The decisions by the gate or a person, in commit order.
    """

    def __init__(
        self, settings: Settings, entries: Iterable[Entry], busy: bool, decisions: Sequence[Decision] = ()
    ) -> None:
        self.settings, self.entries, self.busy, self.decisions = settings, list(entries), busy, decisions
        self._newest: dict[tuple[str, str, str], Entry] = {}
        for entry in self.entries:
            self._newest[entry.key] = entry
        self._states: dict[tuple[str, str], tuple[State, str]] = {}
        self._run_ids: dict[str, str] = {}
        self._nights: dict[str, list[str]] = {}
        self._filled = ""
        """The night before which all states of `split` and `train` are known."""

    def list_nights(self) -> list[str]:
        """Return the nights with at least one step that has run, oldest first."""
        return sorted({ds for ds, step, run in self._newest if run in ("", self._make_run_id(ds))})

    def find_removed_start(self, ds: str, step: str) -> str | None:
        """Return the earlier night that a step starts from if its results were removed; None otherwise."""
        removed = (n for n, s in self.list_starts(ds, step) if (e := self.get_entry(n, s)) and e.state == "removed")
        return next(removed, None)

    def list_starts(self, ds: str, step: str) -> list[tuple[str, str]]:
        """Return the nights and steps that a step starts from: the vocabularies and the model that it extends."""
        start = (self._find_start_night(ds), "train")
        needed = {"split": [(self._find_vocabulary_night(ds), "split"), start], "train": [start]}.get(step, [])
        return [(night, name) for night, name in needed if night]

    def get_run_id(self, ds: str, step: str) -> str:
        """Return the run that a step of a night belongs to; empty for steps that all runs share."""
        return self._make_run_id(ds) if STEPS[step].per_run else ""

    def _make_run_id(self, ds: str) -> str:
        if ds not in self._run_ids:
            self._run_ids[ds] = make_run_id(self.settings, ds)
        return self._run_ids[ds]

    def get_entry(self, ds: str, step: str) -> Entry | None:
        """Return the last entry of a step of a night; None if it has never run."""
        return self._newest.get((ds, step, self.get_run_id(ds, step)))

    def get_state(self, ds: str, step: str) -> tuple[State, str]:
        """Return the state of a step of a night, and the reason for it (empty if the step is done)."""
        if (ds, step) not in self._states:
            # If nights build on each other, compute the oldest first: a recursion over a year of nights would exceed
            # Python's limit.
            first, self._filled = self._filled, max(self._filled, ds)
            nights = [night for night in self._list_nights("train") if first <= night < ds]
            for key in [(night, name) for night in nights for name in ("split", "train")]:
                if key not in self._states and self.list_starts(ds, "split"):
                    self._states[key] = self._compute_state(*key)
            self._states[ds, step] = self._compute_state(ds, step)
        return self._states[ds, step]

    def _compute_state(self, ds: str, step: str) -> tuple[State, str]:
        entry = self.get_entry(ds, step)
        if entry is None:
            others = [run for day, name, run in self._newest if (day, name) == (ds, step) and run]
            reason = f"has not run with these settings; with other settings, {others[-1]} has" if others else ""
            return State.MISSING, reason or "has not run yet"
        if entry.state == "running":
            process = f"process {entry.process}"
            return (State.RUNNING, process) if self.busy else (State.FAILED, f"{process} was killed")
        if entry.state in ("failed", "interrupted"):
            return State(entry.state), entry.error
        for night, dependency in self._list_dependencies(ds, step):
            state, _ = self.get_state(night, dependency)
            if state not in (State.DONE, State.REMOVED):
                name = dependency if night == ds else f"{dependency} of night {night}"
                return State.STALE, f"{name} {STATE_TEXTS[state]}"
        inputs = self.hash_inputs(ds, step)
        changed = [k for k in {**entry.inputs, **inputs} if entry.inputs.get(k) != inputs.get(k)]
        if changed:
            logs = {key for key in changed if key.startswith("logs.") and not self.log_files.get(key[len("logs.") :])}
            texts = (describe_input(key, self.settings.paths.logs if key in logs else None) for key in changed)
            return State.STALE, f"inputs changed: {', '.join(texts)}"
        if step == "ingest" and (days := self._find_overwritten(entry)):
            return State.STALE, f"another night has since ingested different data for {', '.join(days)}"
        return (State.REMOVED, entry.reason) if entry.state == "removed" else (State.DONE, "")

    def _list_dependencies(self, ds: str, step: str) -> list[tuple[str, str]]:
        """Return the nights and steps that a step directly depends on."""
        required = find_required_step(step)
        previous = [(ds, required)] if required else []
        # The split reuses the numeric encoding of the warm-start run, so it depends on the split of that run's night.
        earlier = {
            "train": [self._find_start_night(ds)],
            "split": [self._find_vocabulary_night(ds), self._find_start_night(ds)],
        }.get(step, [])
        return [*previous, *((night, step) for night in dict.fromkeys(earlier) if night)]

    def _find_start_night(self, ds: str) -> str | None:
        """Return the night of this configuration whose model the training of night `ds` starts from, if any."""
        match self.settings.trainer.warm_start:
            case "previous":
                return self._find_newest_before(ds, "train")
            case "accepted":
                found = find_accepted_before(self.settings, self.decisions, ds)
                return found.ds if found else None
        return None

    def _find_vocabulary_night(self, ds: str) -> str | None:
        """Return the night whose vocabularies those of night `ds` extend; None if they are fitted from scratch."""
        return None if self.settings.split.vocabulary == "fitted" else self._find_newest_before(ds, "split")

    def _find_newest_before(self, ds: str, step: str) -> str | None:
        """Return the newest night before `ds` that has run a step.

        Includes nights on which the step failed or was killed: night `ds` should have started from their results.
        """
        nights = self._list_nights(step)
        number = bisect_left(nights, ds)
        return nights[number - 1] if number else None

    def _list_nights(self, step: str) -> list[str]:
        """Return the nights that have run a step, oldest first."""
        if step not in self._nights:
            self._nights[step] = sorted(
                {e.ds for e in self.entries if e.step == step and self._has_this_configuration(e)}
            )
        return self._nights[step]

    def _has_this_configuration(self, entry: Entry) -> bool:
        return entry.run_id == self.get_run_id(entry.ds, entry.step)

    def hash_inputs(self, ds: str, step: str) -> dict[str, str]:
        """Compute the current input fingerprint of a step.

        Args:
            ds: The night.
            step: The step.

        Returns:
            Hashes of everything that determines the results of the step, by name: `settings`, `code`, `logs.LOG` (files
            of a log), `contents` (ingested tables), `warm_start` (the run that this setting names), and `STEP` or
            `STEP of NIGHT` (steps that it depends on, and for `train` and `reference` the earlier scores that calibrate
            the model).
        """
        hashes = {"settings": hash_step_settings(self.settings, ds, step), "code": _hash_step_code(step)}
        if step == "ingest":
            days = list_window_days(self.settings, ds)
            for name, files in self.log_files.items():
                if not has_log_days(log := self.settings.logs.get_declared()[name]):
                    continue  # a later night reads the new rows, and they do not belong to this one
                duplicate_days = getattr(log, "duplicate_days", 0)
                reaches_back = name in log_files.UNWINDOWED_LOGS
                first = None if reaches_back else [*list_days_before(days[0], duplicate_days), days[0]][0]
                hashes[f"logs.{name}"] = log_files.hash_files(files, first, ds)
            return hashes
        if step == "features":
            hashes["contents"] = hash_json(
                {
                    table: {day: row_hash for day, row_hash in days.items() if day in UNDATED or day <= ds}
                    for table, days in self.table_hashes.items()
                }
            )
        if step in ("split", "train") and self.settings.trainer.warm_start not in (None, PREVIOUS, ACCEPTED):
            hashes["warm_start"] = self._hash_named_start(ds, step)
        for night, dependency in self._list_dependencies(ds, step):
            entry = self.get_entry(night, dependency)
            if dependency != "ingest":
                key = dependency if night == ds else f"{dependency} of {night}"
                hashes[key] = hash_json(entry.inputs if entry else None)
        # Not in `_list_dependencies`: a stale earlier night does not make this one stale before it runs again.
        scorer, nights = self._list_calibration(ds, step)
        for night in nights:
            entry = self.get_entry(night, scorer)
            if entry is not None and entry.state in ("done", "removed"):
                hashes[f"{scorer} of {night}"] = hash_json(entry.inputs)
        return hashes

    def _list_calibration(self, ds: str, step: str) -> tuple[str, list[str]]:
        """Return the nights whose scores calibrate the model of a step, and the step that writes these scores."""
        if step == "train":
            return "score", list_calibration_nights(self.settings, ds)
        reference = self.settings.reference
        is_due = step == "reference" and reference is not None and reference.is_due(ds)
        return "reference", list_reference_calibration_nights(self.settings, ds) if is_due else []

    def _hash_named_start(self, ds: str, step: str) -> str:
        """Hash what a step reads from the run that `trainer.warm_start` names.

        This run may have no entry in this journal. With `previous` and `accepted`, the run is an earlier night of this
        configuration and has entries.

        Returns:
            The hash; if training cannot start from the run, a text that names the setting.
        """
        try:
            start = find_start(self.settings, ds)
            assert start is not None
            return start.hash_numbers() if step == "split" else start.hash_weights()
        except UserError:  # the step raises it, too
            return f"{self.settings.trainer.warm_start} cannot be used"

    @cached_property
    def log_files(self) -> dict[str, list[log_files.LogFile]]:
        """The files of each log."""
        return {name: log_files.list_files(self.settings, name) for name in self.settings.logs.get_declared()}

    @cached_property
    def table_hashes(self) -> dict[str, dict[str, str]]:
        """Hash of the current rows of each ingested table and day, according to the last ingest that wrote the day."""
        found: dict[str, dict[str, str]] = {}
        for entry in self.entries:
            if entry.step == "ingest" and entry.state == "done":
                window = list_window_days(self.settings, entry.ds)
                for table, days in entry.outputs.items():
                    hashes = found.setdefault(table, {})
                    # Remove the days that this ingest replaced, because it may have deleted some of them.
                    whole = table in log_files.UNWINDOWED_LOGS  # all days up to the night were replaced
                    for day in [d for d in hashes if d in UNDATED or (d <= entry.ds if whole else d in window)]:
                        del hashes[day]
                    hashes.update(days)
        return found

    def _find_overwritten(self, entry: Entry) -> list[str]:
        """Return the days whose rows differ from those that an ingest wrote."""
        return sorted(
            {
                day
                for table, days in entry.outputs.items()
                for day, row_hash in days.items()
                if self.table_hashes[table].get(day) != row_hash
            }
        )

    def find_last_writer(self, ds: str) -> str | None:
        """Return the last night whose window, for which it wrote the features, contains day `ds`; None if none did."""
        nights = (entry.ds for entry in reversed(self.entries) if entry.step == "features")
        return next((night for night in nights if ds in list_window_days(self.settings, night)), None)


@cache
def _hash_step_code(step: str) -> str:
    return hash_code([f"star_ctr.jobs.{step}"])
