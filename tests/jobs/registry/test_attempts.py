"""Attempts: a published attempt never changes, and decisions always refer to the evaluated attempt."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from star_ctr.conf.contracts.catalog import RECORD_FILE, WEIGHTS_FILE, Warehouse
from star_ctr.conf.errors import DataError, UserError
from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.gate import _explain_no_decision
from star_ctr.jobs.io.delta_rows import SupersededError
from star_ctr.jobs.refit import _explain_no_refit
from star_ctr.jobs.registry.attempts import (
    Attempt,
    assign_attempt,
    check_run_id,
    find_attempt,
    find_damaged_files,
    get_attempt,
    get_attempt_folder,
    get_published_attempt,
    publish_attempt,
)
from star_ctr.jobs.registry.decisions import Decision, Decisions, Outcome, find_manual_override, find_serving
from star_ctr.jobs.tools import verify
from star_ctr.model.predictor import Predictor
from star_ctr.model.train import write_job
from star_ctr.model.training.job import TrainingJob
from star_ctr.model.training.run import train
from tests.model.synthetic import LAYOUT, job, with_vocabularies, write_split
from tests.published import publish

RUN = "2026-01-02-star"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load("demo", [f"paths.warehouse={tmp_path}"])


@pytest.fixture
def warehouse(settings: Settings) -> Warehouse:
    return Warehouse(settings.paths)


@pytest.fixture
def first(tmp_path: Path) -> TrainingJob:
    """Make a job on a split with vocabularies."""
    table = write_split(tmp_path, {"a": 80, "b": 40})
    return with_vocabularies(job(table, tmp_path), tmp_path).model_copy(update={"run_id": RUN})


def train_and_publish(training: TrainingJob) -> Attempt:
    """Train a job as `star-ctr train` does, and publish it."""
    if not get_attempt(training).is_published:
        write_job(training)
        train(training)
    publish_attempt(training)
    return get_attempt(training)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_a_training_on_changed_inputs_is_a_new_attempt(warehouse: Warehouse, first: TrainingJob) -> None:
    one = train_and_publish(assign_attempt(warehouse, first))
    assert (one.number, one.folder.name) == (1, "attempt-001")
    before = contents(one.folder)
    assert {"model.safetensors", "layout.json", "vocabularies/part-00000.parquet", "result.json"} < set(before)
    assert train_and_publish(assign_attempt(warehouse, first)) == one, "the same job is not trained again"
    restated = first.model_copy(update={"trainer": first.trainer.model_copy(update={"seed": 5})})
    two = train_and_publish(assign_attempt(warehouse, restated))
    assert two.number == 2
    assert contents(one.folder) == before
    assert get_published_attempt(warehouse, RUN) == two
    assert get_published_attempt(warehouse, RUN, 1) == one
    with pytest.raises(UserError, match="--attempt 3: .* has no such attempt; it has attempts 1, 2"):
        get_published_attempt(warehouse, RUN, 3)
    assert train_and_publish(assign_attempt(warehouse, first)).number == 3, (
        "only the newest published attempt is reused"
    )


def test_the_same_model_is_not_published_again(warehouse: Warehouse, first: TrainingJob) -> None:
    """A night that runs again writes a new version of the split, with the same rows."""
    one = train_and_publish(assign_attempt(warehouse, first))
    again = assign_attempt(warehouse, first.model_copy(update={"code": "another version of the same"}))
    assert again.attempt == 2
    assert not train_and_publish(again).is_published
    assert not again.path.exists()
    assert get_published_attempt(warehouse, RUN) == one
    write_job(again)
    train(again)
    assert publish_attempt(again, keep=True)["attempt"] == 2


def test_an_unpublished_attempt_is_resumed_and_invisible(warehouse: Warehouse, first: TrainingJob) -> None:
    training = assign_attempt(warehouse, first)
    write_job(training)
    train(training)  # killed before it was published
    assert find_attempt(warehouse, RUN) is None
    assert warehouse.list_finished_runs() == []
    again = assign_attempt(warehouse, first)
    assert again.path == training.path
    other = assign_attempt(warehouse, first.model_copy(update={"code": "changed"}))
    assert other.attempt == 2, "another job must not train into its folder"
    assert train_and_publish(again).record()["attempt"] == 1


PUBLISH = """
import os, signal, sys
from pathlib import Path
from star_ctr.jobs.registry import attempts
from star_ctr.model.training.job import TrainingJob
calls = iter(range(int(sys.argv[2]) + 1))

def kill_before(function):
    def call(*arguments):
        if next(calls, None) == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)
    return call

for name in ("hash_file", "sync_folder", "write_json", "copy_file"):
    setattr(attempts, name, kill_before(getattr(attempts, name)))
attempts.publish_attempt(TrainingJob.model_validate_json(Path(sys.argv[1]).read_text()))
"""


def test_publishing_is_atomic_under_kills(warehouse: Warehouse, first: TrainingJob) -> None:
    training = assign_attempt(warehouse, first)
    file = write_job(training)
    train(training)
    kills = 0
    for step in (0, 5, 100):
        done = subprocess.run([sys.executable, "-c", PUBLISH, str(file), str(step)], check=False)
        killed = done.returncode == -signal.SIGKILL
        assert killed or done.returncode == 0
        assert get_attempt(training).is_published != killed
        kills += killed
    assert kills == 2
    assert find_damaged_files(get_attempt(training)) == []
    assert Predictor(training.path, get_attempt(training).record()["files"]).layout.domains == LAYOUT.domains


@pytest.mark.parametrize("file", ["model.safetensors", "layout.json", "vocabularies/part-00000.parquet"])
def test_a_corrupted_file_is_detected(settings: Settings, warehouse: Warehouse, first: TrainingJob, file: str) -> None:
    attempt = train_and_publish(assign_attempt(warehouse, first))
    decisions = Decisions(settings)
    decisions.promote(RUN, "the first one", by="ann")
    assert [row["damaged"] for row in verify.run(settings)] == [""]
    path = attempt.folder / file
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    [row] = verify.run(settings)
    assert (row["run_id"], row["attempt"], row["reason"], row["damaged"]) == (RUN, 1, "serving", file)
    if not file.startswith("vocabularies"):
        with pytest.raises(DataError, match=f"{file}: differs from the training record"):
            Predictor(attempt.folder, {file: attempt.record()["files"][file]})
    assert assign_attempt(warehouse, first).attempt == 2, "a damaged attempt is not reused"
    publish(settings, "2026-01-03-other", "2026-01-03")
    decisions.promote("2026-01-03-other", "whole", by="ann")
    with pytest.raises(DataError, match=rf"differ from the record of .*: {file}"):
        decisions.rollback("back", by="ann")


def test_a_run_id_cannot_escape_the_models_folder(settings: Settings, warehouse: Warehouse) -> None:
    for bad in ("../x", "a/b", "..", ".hidden", "", "/etc", "a\0b", "a b"):
        with pytest.raises(UserError, match="not a run id"):
            check_run_id(bad)
        with pytest.raises(UserError, match="not a run id"):
            get_published_attempt(warehouse, bad)
        with pytest.raises(UserError, match="not a run id"):
            Decisions(settings).promote(bad, "why", by="ann")
    assert check_run_id(RUN) == RUN


# --- decisions


def add(decisions: Decisions, decision: Decision) -> Decision:
    decisions.add(decision, decisions.read_all())
    return decision


def promoted(ds: str, run: str, attempt: int = 1, by: str = "gate") -> Decision:
    outcome = Outcome.PROMOTED if by == "gate" else Outcome.PROMOTED_MANUALLY
    return Decision(ds, run, attempt, "", None, outcome, "made up", by)


def test_a_decision_based_on_a_stale_read_is_rejected(settings: Settings) -> None:
    decisions = Decisions(settings)
    read = decisions.read_all()
    add(decisions, promoted("2026-01-02", "a"))
    with pytest.raises(SupersededError):
        decisions.add(promoted("2026-01-02", "b"), read)
    assert [d.run_id for d in decisions.read_all()] == ["a"]


def test_a_manual_rollback_holds_until_a_newer_night(settings: Settings) -> None:
    decisions = Decisions(settings)
    nights = {ds: publish(settings, f"{ds}-star", ds) for ds in ("2026-01-02", "2026-01-03", "2026-01-04")}
    one, two, three = nights.values()
    for attempt in (one, two):
        add(decisions, promoted(attempt.run_id[:10], attempt.run_id))
    decisions.rollback("complaints", by="ann")
    decided = decisions.read_all()
    now = find_serving(decided)
    assert now is not None
    assert now.model == (one.run_id, 1)
    hold = find_manual_override(decided)
    assert hold is not None
    assert str(hold) == "decided by ann (rolled back: complaints); holds until a night after 2026-01-03 is evaluated"
    assert _explain_no_decision(decided, two, "2026-01-03") == str(hold)
    again = publish(settings, two.run_id, "2026-01-03", 2)
    assert _explain_no_decision(decided, again, "2026-01-03") == str(hold), (
        "a new attempt of that night does not end the hold"
    )
    assert _explain_no_decision(decided, three, "2026-01-04") == ""
    add(decisions, promoted("2026-01-04", three.run_id))
    assert find_manual_override(decisions.read_all()) is None


def test_a_refit_does_not_undo_a_rollback(settings: Settings) -> None:
    decisions, run = Decisions(settings), "2026-01-02-star"
    newest = publish(settings, run, "2026-01-02")
    publish(settings, f"{run}-refit", "2026-01-02")
    add(decisions, promoted("2026-01-02", run))
    assert _explain_no_refit(decisions.read_all(), run, newest) == ""
    add(
        decisions,
        replace(
            promoted("2026-01-02", f"{run}-refit"), outcome=Outcome.REFIT, reference_run_id=run, reference_attempt=1
        ),
    )
    assert _explain_no_refit(decisions.read_all(), run, newest) == ""
    decisions.rollback("it drifts", by="ann")
    assert "decided by ann" in _explain_no_refit(decisions.read_all(), run, newest)


def test_a_refit_does_not_end_a_manual_hold(settings: Settings) -> None:
    run = "2026-01-02-star"
    decided = [
        promoted("2026-01-02", run, by="ann"),
        replace(
            promoted("2026-01-02", f"{run}-refit"), outcome=Outcome.REFIT, reference_run_id=run, reference_attempt=1
        ),
    ]
    hold = find_manual_override(decided)
    assert hold is not None
    assert hold.decision.by == "ann"


def test_a_new_attempt_of_the_serving_run_is_evaluated(settings: Settings) -> None:
    one = publish(settings, RUN, "2026-01-02")
    decided = [promoted("2026-01-02", RUN)]
    assert _explain_no_decision(decided, one, "2026-01-02") == "the candidate or its refit is already serving"
    two = publish(settings, RUN, "2026-01-02", 2)
    assert _explain_no_decision(decided, two, "2026-01-02") == ""
    refit = replace(
        promoted("2026-01-02", f"{RUN}-refit"), outcome=Outcome.REFIT, reference_run_id=RUN, reference_attempt=1
    )
    assert _explain_no_decision([*decided, refit], one, "2026-01-02") == "the candidate or its refit is already serving"
    assert _explain_no_decision([*decided, refit], two, "2026-01-02") == ""


def test_a_person_cannot_use_the_name_of_the_gate(settings: Settings) -> None:
    publish(settings, RUN, "2026-01-02")
    with pytest.raises(UserError, match="--by gate: this name is reserved"):
        Decisions(settings).promote(RUN, "why", by="gate")


def test_the_pointer_names_the_attempt(settings: Settings, warehouse: Warehouse) -> None:
    publish(settings, RUN, "2026-01-02", 1)
    publish(settings, RUN, "2026-01-02", 2)
    Decisions(settings).promote(RUN, "the older one", by="ann", attempt=1)
    pointer = json.loads((Path(warehouse.root) / "serving.json").read_text())
    assert (pointer["run_id"], pointer["attempt"]) == (RUN, 1)
    assert pointer["model"] == str(get_attempt_folder(warehouse, RUN, 1).resolve())
    assert (Path(pointer["model"]) / WEIGHTS_FILE).exists()
    assert (Path(pointer["model"]) / RECORD_FILE).exists()


def test_a_model_that_is_deleted_meanwhile_is_not_served(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Manual decisions do not take the lease, so `star-ctr clean` can delete the model meanwhile."""
    decisions = Decisions(settings)
    publish(settings, "2026-01-02-star", "2026-01-02")
    old = publish(settings, "2026-01-01-star", "2026-01-01")
    decisions.promote("2026-01-02-star", "the newest", by="ann")
    write = Decisions.add

    def add_late(self: Decisions, decision: Decision, after: list[Decision]) -> None:
        if decision.run_id == old.run_id and (old.folder / RECORD_FILE).exists():
            shutil.rmtree(old.folder)
        write(self, decision, after)

    monkeypatch.setattr(Decisions, "add", add_late)
    with pytest.raises(UserError, match="has just deleted this model; serve another one"):
        decisions.promote(old.run_id, "the old one", by="ann")
    now = find_serving(decisions.read_all())
    assert now is not None
    assert now.run_id == "2026-01-02-star"


def test_a_refit_has_the_inputs_of_the_promoted_attempt(settings: Settings) -> None:
    """The gate held attempt 2, on a restated log. A refit on that log must not be served for attempt 1."""
    one, two = (publish(settings, RUN, "2026-01-02", number) for number in (1, 2))
    refit = replace(
        promoted("2026-01-02", f"{RUN}-refit"), outcome=Outcome.REFIT, reference_run_id=RUN, reference_attempt=1
    )
    held = replace(promoted("2026-01-02", RUN, 2), outcome=Outcome.HELD)
    decided = [promoted("2026-01-02", RUN), refit, held]
    assert _explain_no_refit(decided, RUN, one) == ""
    assert "the newest attempt of the night's run was not promoted" in _explain_no_refit(decided, RUN, two)


def test_the_gate_s_rollback_of_a_refit_keeps_a_person_s_hold(settings: Settings) -> None:
    by_ann = promoted("2026-01-02", RUN, by="ann")
    refit = replace(
        promoted("2026-01-02", f"{RUN}-refit"), outcome=Outcome.REFIT, reference_run_id=RUN, reference_attempt=1
    )
    back = replace(by_ann, outcome=Outcome.ROLLED_BACK, by="gate", reference_run_id=refit.run_id, reference_attempt=1)
    hold = find_manual_override([by_ann, refit, back])
    assert hold is not None
    assert hold.decision.by == "ann"


def test_a_command_repairs_a_pointer_that_a_kill_left_behind(settings: Settings, warehouse: Warehouse) -> None:
    decisions = Decisions(settings)
    for ds in ("2026-01-02", "2026-01-03"):
        publish(settings, f"{ds}-star", ds)
        add(decisions, promoted(ds, f"{ds}-star"))
    pointer = Path(warehouse.root) / "serving.json"
    pointer.write_text("{}")
    with pytest.raises(UserError):
        decisions.promote("2026-01-03-star", "again", by="ann")
    assert json.loads(pointer.read_text())["run_id"] == "2026-01-03-star"
