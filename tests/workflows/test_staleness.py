"""Staleness of steps, tested without Spark on small logs and on journal entries as the steps would write them."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import itertools
import os
from pathlib import Path

import pytest

from star_ctr.conf.contracts import catalog
from star_ctr.conf.contracts.pipeline import RUN_STEPS, STEP_NAMES, list_steps
from star_ctr.conf.errors import UserError
from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings
from star_ctr.workflows import staleness, status
from star_ctr.workflows.backfill import explain_why_needed
from star_ctr.workflows.journal import Entry, Journal
from star_ctr.workflows.lease import hold_lease, is_held
from star_ctr.workflows.nightly import find_outdated_start
from star_ctr.workflows.staleness import Staleness
from star_ctr.workflows.step_states import State
from tests import small_logs
from tests.model.synthetic import LAYOUT
from tests.published import publish
from tests.steps import EVERY_NIGHT

NIGHTS = small_logs.DAYS[1:]


class Warehouse:
    """Small logs, and a journal with entries of steps that did not run."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        self.conf = small_logs.write(folder, small_logs.frames())
        self.logs = folder
        self.settings = load(self.conf, ["window.days=1", *overrides])
        self.entries: list[Entry] = []
        self._clock = itertools.count()

    def load(self, *overrides: str) -> Settings:
        return load(self.conf, ["window.days=1", *overrides])

    def get_staleness(self, settings: Settings | None = None, busy: bool = False) -> Staleness:
        return Staleness(settings or self.settings, self.entries, busy)

    def add_entry(self, ds: str, step: str, state: str = "done", contents: str = "1") -> None:
        current = self.get_staleness()
        outputs = {"impressions": dict.fromkeys(small_logs.DAYS[: small_logs.DAYS.index(ds) + 1], contents)}
        at = dt.datetime(2026, 3, 5, tzinfo=dt.UTC) + dt.timedelta(seconds=next(self._clock))
        self.entries.append(
            Entry(
                ds, step, current.get_run_id(ds, step), state, at, inputs=current.hash_inputs(ds, step),
                outputs=outputs if step == "ingest" and state == "done" else {}, error="broke" if state == "failed" else "",
            )
        )  # fmt: skip

    def add_nights(self, *nights: str) -> None:
        for ds in nights:
            for step in list_steps(self.settings):
                self.add_entry(ds, step)

    def states(self, ds: str, settings: Settings | None = None) -> dict[str, str]:
        current = self.get_staleness(settings)
        return {step: current.get_state(ds, step)[0].value for step in list_steps(current.settings)}


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path)


def all_of(state: State) -> dict[str, str]:
    return dict.fromkeys(EVERY_NIGHT, state.value)


def from_step(first: str, state: State = State.STALE, steps: tuple[str, ...] = EVERY_NIGHT) -> dict[str, str]:
    number = STEP_NAMES.index(first)
    return {s: (State.DONE if k < number else state).value for k, s in enumerate(steps)}


def test_finished_steps_are_done_and_others_are_missing(warehouse: Warehouse) -> None:
    warehouse.add_nights(NIGHTS[0])
    assert warehouse.states(NIGHTS[0]) == all_of(State.DONE)
    assert warehouse.states(NIGHTS[1]) == all_of(State.MISSING)


def test_later_nights_are_stale_if_a_day_is_withdrawn(warehouse: Warehouse) -> None:
    """Ingest of a night removes a day without a file, but a later night has used that day as history."""
    warehouse.add_nights(*NIGHTS[:2])
    before = warehouse.get_staleness().table_hashes["impressions"]
    assert small_logs.DAYS[0] in before
    ingest = warehouse.entries[0]
    outputs = {"impressions": {day: "1" for day in ingest.outputs["impressions"] if day != small_logs.DAYS[0]}}
    warehouse.entries.append(dataclasses.replace(ingest, at=dt.datetime(2026, 3, 6, tzinfo=dt.UTC), outputs=outputs))
    assert small_logs.DAYS[0] not in warehouse.get_staleness().table_hashes["impressions"]
    assert warehouse.states(NIGHTS[1])["features"] == State.STALE.value


def test_a_changed_file_makes_ingest_stale_and_changed_tables_the_other_steps(warehouse: Warehouse) -> None:
    warehouse.add_nights(*NIGHTS)
    view = next((warehouse.logs / "logs" / "views").glob(f"{NIGHTS[1].replace('-', '')}*"))
    os.utime(view, (1, 1))
    assert warehouse.states(NIGHTS[0]) == all_of(State.DONE), "a night before the changed day"
    assert warehouse.states(NIGHTS[1])["ingest"] == "stale"
    assert (
        warehouse.get_staleness().get_state(NIGHTS[1], "ingest")[1] == "inputs changed: log files of logs.impressions"
    )
    views = view.parent.rename(view.parent.with_name("moved"))
    reason = warehouse.get_staleness().get_state(NIGHTS[1], "ingest")[1]
    assert reason == f"inputs changed: log files of logs.impressions (none are in {warehouse.logs / 'logs'})"
    views.rename(view.parent)
    for ds in NIGHTS[1:]:
        warehouse.add_entry(ds, "ingest")
    assert [warehouse.states(ds) for ds in NIGHTS] == [all_of(State.DONE)] * 3, (
        "the same tables, so no other step is stale"
    )
    warehouse.add_entry(NIGHTS[1], "ingest", contents="2")
    assert warehouse.states(NIGHTS[1]) == from_step("features")
    assert warehouse.get_staleness().get_state(NIGHTS[1], "features")[1] == "inputs changed: ingested tables"
    assert (
        "another night has since ingested different data for"
        in warehouse.get_staleness().get_state(NIGHTS[2], "ingest")[1]
    )


def test_new_rows_of_a_log_without_days_belong_to_the_next_night(warehouse: Warehouse) -> None:
    warehouse.add_nights(NIGHTS[0])
    os.utime(warehouse.logs / "logs" / "skus.csv", (1, 1))
    assert warehouse.states(NIGHTS[0]) == all_of(State.DONE)


def test_a_changed_setting_makes_only_steps_stale_that_read_it(warehouse: Warehouse) -> None:
    warehouse.add_nights(NIGHTS[0])
    other = warehouse.load("split.rows_per_file=100")
    assert warehouse.states(NIGHTS[0], other)["features"] == "done"
    assert warehouse.states(NIGHTS[0], other)["split"] == "stale"
    assert warehouse.states(NIGHTS[0], warehouse.load("trainer.threads=1")) == all_of(State.DONE)
    assert warehouse.states(NIGHTS[0], warehouse.load("trainer.optimizer.lr=0.5")) == from_step("train", State.MISSING)


@pytest.mark.parametrize("step", [*EVERY_NIGHT, "refit"])
def test_changed_code_makes_steps_stale_that_import_it(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = Warehouse(tmp_path, "gate.publish=refit", "label.open=keep")
    warehouse.add_nights(NIGHTS[0])
    hash_code = staleness._hash_step_code
    monkeypatch.setattr(staleness, "_hash_step_code", lambda s: "other" if s == step else hash_code(s))
    assert warehouse.states(NIGHTS[0]) == from_step(step, steps=(*EVERY_NIGHT, "refit"))
    assert warehouse.get_staleness().get_state(NIGHTS[0], step) == (State.STALE, "inputs changed: code")


def test_a_refit_that_is_configured_later_does_not_affect_other_steps(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path, "label.open=keep")
    warehouse.add_nights(NIGHTS[0])
    settings = warehouse.load("gate.publish=refit", "label.open=keep")
    assert warehouse.states(NIGHTS[0], settings) == {**all_of(State.DONE), "refit": "missing"}


INCREMENTAL = ("trainer.warm_start=previous", "split.vocabulary=grown")


def test_a_reference_depends_on_the_metrics_of_its_night_but_not_on_the_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = Warehouse(tmp_path, *INCREMENTAL, "reference.every_nights=2")
    warehouse.add_nights(*NIGHTS)
    done = {**all_of(State.DONE), "reference": "done"}
    gate = warehouse.load(*INCREMENTAL, "reference.every_nights=2", "gate.gauc_margin=0.5")
    assert warehouse.states(NIGHTS[1], gate) == {**done, "gate": "stale"}
    metrics = warehouse.load(*INCREMENTAL, "reference.every_nights=2", "evaluate.level=0.9")
    assert warehouse.states(NIGHTS[1], metrics)["reference"] == "stale"
    # 2026-03-03 is the only night with a reference.
    longer = warehouse.load(*INCREMENTAL, "reference={every_nights: 2, window_days: 9}")
    assert [warehouse.states(ds, longer)["reference"] for ds in NIGHTS] == ["done", "stale", "done"]
    more = warehouse.load(*INCREMENTAL, "reference.every_nights=1")
    # The second night would now be calibrated on the scores of the first one.
    assert [warehouse.states(ds, more)["reference"] for ds in NIGHTS] == ["stale"] * 3
    fewer = warehouse.load(*INCREMENTAL, "reference.every_nights=4")  # 2026-03-03 and every other such night before
    assert [warehouse.states(ds, fewer)["reference"] for ds in NIGHTS] == ["done"] * 3
    hash_code = staleness._hash_step_code
    monkeypatch.setattr(staleness, "_hash_step_code", lambda s: "other" if s == "reference" else hash_code(s))
    assert warehouse.states(NIGHTS[1]) == {**done, "reference": "stale"}


def test_a_reference_is_stale_if_the_reference_that_calibrates_it_has_changed(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path, *INCREMENTAL, "reference={every_nights: 2}", "trainer.calibration.earlier_nights=1")
    current = warehouse.get_staleness()
    # Nights with a reference are an even number of days from 2026-03-03. The one two nights before is used.
    assert [current._list_calibration(ds, "reference") for ds in NIGHTS] == [
        ("reference", []), ("reference", ["2026-03-01"]), ("reference", []),
    ]  # fmt: skip
    warehouse.settings = warehouse.load(*INCREMENTAL, "reference={every_nights: 1}")
    warehouse.add_nights(*NIGHTS)
    earlier = next(e for e in warehouse.entries if (e.ds, e.step) == (NIGHTS[1], "reference"))
    earlier.inputs["code"] = "old"
    assert warehouse.states(NIGHTS[0])["reference"] == "done"
    why = f"inputs changed: reference of night {NIGHTS[1]}"
    assert warehouse.get_staleness().get_state(NIGHTS[2], "reference") == (State.STALE, why)
    assert warehouse.states(NIGHTS[2])["gate"] == "done"


def test_a_reference_that_is_configured_later_does_not_affect_earlier_nights(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path, *INCREMENTAL)
    warehouse.add_nights(*NIGHTS[:2])
    current = warehouse.get_staleness(warehouse.load(*INCREMENTAL, "reference={}"))
    assert [current.get_state(ds, "reference")[0].value for ds in NIGHTS] == ["missing"] * 3
    needed = [[explain_why_needed(current, ds, step) for step in STEP_NAMES if step != "refit"] for ds in NIGHTS[:2]]
    assert needed == [[None] * 8, [None] * 7 + ["missing: has not run yet"]], "only the newest night"


def test_a_failed_reference_is_repeated_until_the_next_night_is_evaluated(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path, *INCREMENTAL, "reference={}")
    warehouse.add_nights(NIGHTS[0])
    warehouse.add_entry(NIGHTS[0], "reference", "failed")
    assert explain_why_needed(warehouse.get_staleness(), NIGHTS[0], "reference") == "failed: broke"
    for step in ("ingest", "features", "split", "train", "score"):
        warehouse.add_entry(NIGHTS[1], step)
    assert explain_why_needed(warehouse.get_staleness(), NIGHTS[0], "reference") == "failed: broke"
    warehouse.add_entry(NIGHTS[1], "evaluate")
    assert explain_why_needed(warehouse.get_staleness(), NIGHTS[0], "reference") is None
    assert warehouse.states(NIGHTS[0])["reference"] == "failed"


def test_removed_results_are_not_computed_again_for_a_reference(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path, *INCREMENTAL, "reference.every_nights=2")
    warehouse.add_nights(NIGHTS[1])
    split = next(e for e in warehouse.entries if e.step == "split")
    warehouse.entries.append(dataclasses.replace(split, state="removed", reason="deleted"))
    longer = warehouse.load(*INCREMENTAL, "reference={every_nights: 2, window_days: 9}")
    current = warehouse.get_staleness(longer)
    assert current.get_state(NIGHTS[1], "reference")[0] is State.STALE
    assert [explain_why_needed(current, NIGHTS[1], step) for step in list_steps(longer)] == [None] * 8


def test_a_model_is_stale_if_the_model_it_started_from_is_trained_again(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path, "trainer.warm_start=previous", "split.vocabulary=grown")
    warehouse.add_nights(*NIGHTS[:2])
    train = next(e for e in warehouse.entries if (e.ds, e.step) == (NIGHTS[1], "train"))
    train.inputs["code"] = "old"
    warehouse.add_nights(NIGHTS[2])
    assert warehouse.states(NIGHTS[0]) == all_of(State.DONE)
    assert warehouse.states(NIGHTS[1]) == from_step("train")
    assert warehouse.get_staleness().get_state(NIGHTS[2], "train") == (
        State.STALE,
        f"train of night {NIGHTS[1]} is stale",
    )
    warehouse.add_entry(NIGHTS[1], "train")
    assert warehouse.get_staleness().get_state(NIGHTS[2], "train")[1] == f"inputs changed: train of night {NIGHTS[1]}"
    warehouse.add_entry(NIGHTS[2], "train")
    assert warehouse.states(NIGHTS[2])["train"] == "done"


def test_a_model_is_stale_if_scores_that_calibrate_it_change(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.add_nights(*NIGHTS[:2])
    train = next(e for e in warehouse.entries if (e.ds, e.step) == (NIGHTS[1], "train"))
    assert f"score of {NIGHTS[0]}" in train.inputs
    score = next(e for e in warehouse.entries if (e.ds, e.step) == (NIGHTS[0], "score"))
    score.inputs["code"] = "old"
    train.inputs.update(warehouse.get_staleness().hash_inputs(NIGHTS[1], "train"))
    later = warehouse.get_staleness()
    assert later.get_state(NIGHTS[0], "score")[0] is State.STALE
    assert later.get_state(NIGHTS[1], "train")[0] is State.DONE, "the scores that it used have not changed yet"
    warehouse.add_entry(NIGHTS[0], "score")
    assert warehouse.get_staleness().get_state(NIGHTS[1], "train") == (
        State.STALE,
        f"inputs changed: score of night {NIGHTS[0]}",
    )
    without = warehouse.load("trainer.calibration.method=none")
    assert f"score of {NIGHTS[0]}" not in warehouse.get_staleness(without).hash_inputs(NIGHTS[1], "train")


def test_a_fitted_split_depends_on_the_run_that_training_starts_from(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path, "trainer.warm_start=previous")
    warehouse.add_nights(NIGHTS[0])
    first = next(e for e in warehouse.entries if (e.ds, e.step) == (NIGHTS[0], "split"))
    first.inputs["code"] = "old"
    warehouse.add_nights(NIGHTS[1])
    stale = warehouse.get_staleness()
    assert stale.get_state(NIGHTS[1], "split") == (State.STALE, f"split of night {NIGHTS[0]} is stale")
    assert find_outdated_start(stale, NIGHTS[1], "split") == (NIGHTS[0], "train", "is stale (split is stale)")
    assert find_outdated_start(stale, NIGHTS[1], "score") is None
    assert find_outdated_start(stale, NIGHTS[0], "split") is None
    warehouse.add_entry(NIGHTS[0], "split")
    assert warehouse.get_staleness().get_state(NIGHTS[1], "split")[1] == f"inputs changed: split of night {NIGHTS[0]}"
    for step in ("train", "split"):
        warehouse.add_entry(NIGHTS[0] if step == "train" else NIGHTS[1], step)
    assert warehouse.states(NIGHTS[1])["split"] == "done"


def test_the_oldest_outdated_night_that_a_night_builds_on_is_found(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path, "trainer.warm_start=previous", "split.vocabulary=grown")
    warehouse.add_nights(*NIGHTS)
    first = next(e for e in warehouse.entries if (e.ds, e.step) == (NIGHTS[0], "train"))
    inputs = dict(first.inputs)
    first.inputs["code"] = "old"
    assert find_outdated_start(warehouse.get_staleness(), NIGHTS[2], "train") == (
        NIGHTS[0], "train", "is stale (inputs changed: code)",
    )  # fmt: skip
    first.inputs.update(inputs)
    assert find_outdated_start(warehouse.get_staleness(), NIGHTS[2], "train") is None
    warehouse.add_entry(NIGHTS[1], "train", state="failed")
    assert find_outdated_start(warehouse.get_staleness(), NIGHTS[2], "train") == (NIGHTS[1], "train", "failed (broke)")


def test_nights_that_build_on_each_other_for_years(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = Warehouse(tmp_path, "trainer.warm_start=previous", "split.vocabulary=grown")
    monkeypatch.setattr(Staleness, "hash_inputs", lambda *_: {})
    nights = [(dt.date(2020, 1, 1) + dt.timedelta(days=k)).isoformat() for k in range(800)]
    at, current = dt.datetime(2026, 3, 5, tzinfo=dt.UTC), warehouse.get_staleness()
    for ds in nights:
        for step in list_steps(warehouse.settings):
            warehouse.entries.append(Entry(ds, step, current.get_run_id(ds, step), "done", at))
    assert warehouse.get_staleness().get_state(nights[-1], "train") == (State.DONE, "")
    assert find_outdated_start(warehouse.get_staleness(), nights[-1], "train") is None


def test_a_split_is_stale_if_training_starts_from_another_run(warehouse: Warehouse) -> None:
    warehouse.add_nights(NIGHTS[0])
    named = warehouse.load("trainer.warm_start=a-run")
    assert warehouse.get_staleness(named).get_state(NIGHTS[0], "split") == (
        State.STALE, "inputs changed: the run that trainer.warm_start names",
    )  # fmt: skip
    assert warehouse.states(NIGHTS[0], named)["features"] == "done"


class NamedRun:
    """A run of another configuration, without Spark or torch."""

    def __init__(self, warehouse: Warehouse) -> None:
        self.settings, self.number = warehouse.settings, 0

    def train(self, weights: bytes, mean: float = 0.0, ds: str = small_logs.DAYS[0]) -> Path:
        """Publish another attempt, and return its folder."""
        self.number += 1
        layout = LAYOUT.model_copy(update={"numeric": [LAYOUT.numeric[0].model_copy(update={"mean": mean})]})
        return publish(self.settings, "a-run", ds, self.number, layout, weights).folder


def test_a_night_is_stale_if_the_named_run_that_it_started_from_is_trained_again(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path, "trainer.warm_start=a-run")
    run = NamedRun(warehouse)
    run.train(b"1")
    warehouse.add_nights(NIGHTS[0])
    assert warehouse.states(NIGHTS[0]) == all_of(State.DONE)
    run.train(b"1")
    assert warehouse.states(NIGHTS[0]) == all_of(State.DONE), "the same weights"
    run.train(b"22")
    assert warehouse.states(NIGHTS[0]) == from_step("train")
    why = "inputs changed: the run that trainer.warm_start names"
    assert warehouse.get_staleness().get_state(NIGHTS[0], "train") == (State.STALE, why)
    for step in (name for name in RUN_STEPS if name in EVERY_NIGHT):
        warehouse.add_entry(NIGHTS[0], step)
    assert warehouse.states(NIGHTS[0]) == all_of(State.DONE)
    run.train(b"22", mean=1.0)
    assert warehouse.states(NIGHTS[0]) == from_step("split")
    assert warehouse.get_staleness().get_state(NIGHTS[0], "split") == (State.STALE, why)


@pytest.mark.parametrize("file", ["record.json", "layout.json", catalog.WEIGHTS_FILE])
def test_a_night_is_stale_if_the_named_run_is_gone(tmp_path: Path, file: str) -> None:
    warehouse = Warehouse(tmp_path, "trainer.warm_start=a-run")
    folder = NamedRun(warehouse).train(b"1")
    warehouse.add_nights(NIGHTS[0])
    (folder / file).unlink()
    assert warehouse.states(NIGHTS[0]) == from_step("train" if file == catalog.WEIGHTS_FILE else "split")


def test_an_unchanged_file_of_weights_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = Warehouse(tmp_path, "trainer.warm_start=a-run")
    folder = NamedRun(warehouse).train(b"1")
    read: list[str] = []
    file_digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda f, name: read.append(f.name) or file_digest(f, name))
    warehouse.add_nights(*NIGHTS)
    assert [warehouse.states(ds) for ds in NIGHTS] == [all_of(State.DONE)] * len(NIGHTS)
    assert read == [str(folder / catalog.WEIGHTS_FILE)]


def test_failed_and_killed_steps_are_failed_and_later_ones_stale(warehouse: Warehouse) -> None:
    warehouse.add_nights(NIGHTS[0])
    warehouse.add_entry(NIGHTS[0], "split", "failed")
    assert warehouse.get_staleness().get_state(NIGHTS[0], "split") == (State.FAILED, "broke")
    assert warehouse.get_staleness().get_state(NIGHTS[0], "train") == (State.STALE, "split failed")
    warehouse.add_entry(NIGHTS[0], "split", "running")
    assert warehouse.get_staleness(busy=True).get_state(NIGHTS[0], "split")[0] is State.RUNNING
    assert warehouse.get_staleness(busy=False).get_state(NIGHTS[0], "split")[0] is State.FAILED


def test_overwritten_features_are_computed_again_for_a_stale_split(warehouse: Warehouse) -> None:
    warehouse.add_nights(*NIGHTS)
    assert explain_why_needed(warehouse.get_staleness(), NIGHTS[0], "features") is None
    other = warehouse.load("split.rows_per_file=100")
    why = str(explain_why_needed(warehouse.get_staleness(other), NIGHTS[0], "features"))
    assert f"the night of {NIGHTS[1]} overwrote the features of {NIGHTS[0]}" in why
    assert explain_why_needed(warehouse.get_staleness(other), NIGHTS[2], "features") is None


def test_the_journal_returns_its_entries(warehouse: Warehouse) -> None:
    journal = Journal(warehouse.settings)
    assert journal.read_entries() == []
    with journal.record_step("2026-03-02", "ingest", "", {"code": "1"}, "requested", lambda: {"t": {"d": "c"}}):
        assert [e.state for e in journal.read_entries()] == ["running"]
    with pytest.raises(ZeroDivisionError), journal.record_step("2026-03-02", "features", "", {}, "", dict):
        raise ZeroDivisionError
    done, failed = (e for e in journal.read_entries() if e.state != "running")
    assert (done.outputs, done.inputs, done.reason, done.state) == (
        {"t": {"d": "c"}},
        {"code": "1"},
        "requested",
        "done",
    )
    assert failed.state == "failed"
    assert "ZeroDivisionError" in failed.error


def test_the_lease_allows_one_writer(warehouse: Warehouse) -> None:
    assert not is_held(warehouse.settings)
    with hold_lease(warehouse.settings):
        assert is_held(warehouse.settings)
        with (
            pytest.raises(UserError, match=rf"process {os.getpid()} .* is writing to it"),
            hold_lease(warehouse.settings),
        ):
            pass
    assert not is_held(warehouse.settings)


def test_status_shows_nights_up_to_the_newest_day_of_the_logs(warehouse: Warehouse) -> None:
    for _ in range(2):
        warehouse.add_nights(NIGHTS[0])
    for entry in warehouse.entries:
        Journal(warehouse.settings).add(entry)
    rows = status.run(warehouse.settings, None, None, 14)
    assert sorted({r["ds"] for r in rows}) == list(NIGHTS)
    assert {r["state"] for r in rows if r["ds"] == NIGHTS[0]} == {"done"}
    assert {r["state"] for r in rows if r["ds"] != NIGHTS[0]} == {"missing"}
