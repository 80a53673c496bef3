"""Random sequences of nights, restated logs, decisions, refits, cleaning and kills: the serving model always works.

Trainings are copies of a few real ones, and the decisions of the gate are random. Everything else is real: attempts,
decisions, their order, what the gate and the refit may decide, and cleaning. A kill is an exception raised at a random
write and at all writes after it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from star_ctr.conf import files as conf_files
from star_ctr.conf.contracts.catalog import RECORD_FILE, RESULT_FILE, Warehouse
from star_ctr.conf.contracts.dates import list_days
from star_ctr.conf.contracts.encoded_row import SplitPartition
from star_ctr.conf.contracts.run_id import make_refit_run_id, make_run_id
from star_ctr.conf.errors import UserError
from star_ctr.conf.load import load
from star_ctr.jobs import gate, refit
from star_ctr.jobs.registry import attempts
from star_ctr.jobs.registry import decisions as decisions_job
from star_ctr.jobs.registry.attempts import (
    assign_attempt,
    find_attempt,
    find_damaged_files,
    get_attempt,
    get_published_attempt,
    publish_attempt,
)
from star_ctr.jobs.registry.decisions import Decision, Decisions, Outcome, find_serving, list_accepted
from star_ctr.jobs.tools import vacuum
from star_ctr.model.data.reader import list_live_files
from star_ctr.model.parity_sample import read_sample
from star_ctr.model.predictor import Predictor
from star_ctr.model.training.job import TrainingJob
from star_ctr.model.training.run import train
from star_ctr.workflows import retention
from tests.conftest import LONG
from tests.model.synthetic import LAYOUT, job, version_of, with_vocabularies, write_split

pytestmark = pytest.mark.slow
NIGHTS = list_days("2026-03-01", "2026-03-05")
VARIANTS = 3
EXAMPLES = 100 if LONG else 40
EVENTS = st.tuples(
    st.sampled_from(("night", "night", "night", "restate", "gate", "promote", "rollback", "refit", "clean")),
    st.sampled_from(NIGHTS),
    st.sampled_from((True, True, False)),  # whether a candidate is good, or a refit passes its checks
    st.integers(0, 100),
    st.sampled_from((None, None, None, None, 0, 1, 2, 3, 4, 6)),  # the number of writes after which a command is killed
)


class Killed(BaseException):
    """Raised at a write, to simulate SIGKILL."""


@contextmanager
def killed_at(number: int | None) -> Iterator[None]:
    """Raise `Killed` at each write after the first `number` ones; never if `number` is None."""
    count = 0

    def killable(write: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal count
            count += 1
            if number is not None and count > number:
                raise Killed
            return write(*arguments, **more)

        return call

    with (
        patch.object(attempts, "write_json", killable(attempts.write_json)),
        patch.object(attempts, "copy_file", killable(attempts.copy_file)),
        patch.object(decisions_job.delta_rows, "add_row", killable(decisions_job.delta_rows.add_row)),
        patch.object(decisions_job, "write_json", killable(decisions_job.write_json)),
        patch.object(attempts, "write_text", killable(conf_files.write_text)),
        patch.object(Path, "rename", killable(Path.rename)),
        patch.object(vacuum, "remove_folder", killable(vacuum.remove_folder)),
        suppress(Killed),
    ):
        yield


class Trainings:
    """A few real training runs on one split, with vocabularies."""

    def __init__(self, folder: Path) -> None:
        self.table = write_split(folder, {"a": 60, "b": 30})
        training = with_vocabularies(job(self.table, folder), folder)
        self.jobs = []
        for seed in range(VARIANTS):
            trainer = training.trainer.model_copy(update={"seed": seed})
            self.jobs.append(
                training.model_copy(update={"trainer": trainer, "folder": str(folder / f"trained-{seed}")})
            )
            train(self.jobs[-1])

    def copy(self, variant: int, to: TrainingJob) -> None:
        """Copy a real training run to the folder of a job, as if the job had been trained."""
        shutil.copytree(self.jobs[variant].path, to.path, dirs_exist_ok=True)
        (to.path / "job.json").write_text(to.model_dump_json())
        result = json.loads((to.path / RESULT_FILE).read_text())
        result |= {"run_id": to.run_id, "attempt": to.attempt, "ds": to.ds, "fingerprint": to.fingerprint()}
        (to.path / RESULT_FILE).write_text(json.dumps(result))


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    return Trainings(tmp_path_factory.mktemp("trainings"))


class Sequence:
    """A warehouse, with checks that run after every event."""

    def __init__(self, folder: Path, trainings: Trainings) -> None:
        self.folder, self.trainings = folder, trainings
        ages = ("attempts=0", "models=3", "rollbacks=2")
        overrides = [
            f"paths.warehouse={folder}",
            *(f"retention.{age}" for age in ages),
            "gate.publish=refit",
            "label.open=keep",
        ]
        self.settings = load("demo", overrides)
        self.warehouse = Warehouse(self.settings.paths)
        self.logs = dict.fromkeys(NIGHTS, 0)
        self.manual: tuple[tuple[str, int], str] | None = None

    def run(self, kind: str, ds: str, good: bool, pick: int, kill: int | None) -> None:
        """Run an event, then check the warehouse."""
        with killed_at(kill):
            match kind:
                case "night":
                    self.night(ds, good)
                case "restate":
                    self.logs[ds] += 1
                case "gate":
                    if find_attempt(self.warehouse, make_run_id(self.settings, ds)):
                        self.decide(ds, good)
                case "promote":
                    self.promote(pick)
                case "rollback":
                    self.rollback()
                case "refit":
                    self.refit(ds, good)
                case "clean":
                    self.clean()
        self.check_serving_model()
        self.check_manual_decision()

    def job(self, ds: str, run: str) -> TrainingJob:
        return self.trainings.jobs[0].model_copy(
            update={"run_id": run, "ds": ds, "code": f"log {self.logs[ds]}", "folder": ""}
        )

    def train(self, ds: str, run: str) -> TrainingJob:
        """Train as `star-ctr train` does."""
        training = assign_attempt(self.warehouse, self.job(ds, run))
        if not get_attempt(training).is_published:
            self.trainings.copy((self.logs[ds] + NIGHTS.index(ds)) % VARIANTS, training)
        # All nights have the same split, so use the vocabularies of the night of the split.
        with patch.object(
            attempts, "list_vocabulary_files", lambda table, version, _: vocabularies_of_split(table, version)
        ):
            publish_attempt(training)
        return training

    def night(self, ds: str, good: bool) -> None:
        self.train(ds, make_run_id(self.settings, ds))
        self.decide(ds, good)
        if good:
            self.refit(ds, True)

    def decide(self, ds: str, good: bool) -> None:
        def decide(_settings: Any, _store: Any, ds: str, candidate: Any, decided: list[Decision]) -> Decision:
            now = find_serving(decided)
            against = now.model if now else ("", None)
            outcome = Outcome.PROMOTED if good else Outcome.HELD
            return Decision(ds, candidate.run_id, candidate.number, *against, outcome, "drawn")

        before = Decisions(self.settings).read_all()
        with patch.object(gate, "_decide", decide):
            result = gate.run(self.settings, None, ds)  # type: ignore[arg-type]
        now = find_serving(Decisions(self.settings).read_all())
        assert (result["serving"], result["serving_attempt"]) == ((now.run_id, now.attempt) if now else ("none", None))
        if self.manual and result["outcome"] != "nothing to decide":
            assert ds > self.manual[1], "a manual decision holds for all nights that had been evaluated before it"
            if good:
                self.manual = None
        assert len(Decisions(self.settings).read_all()) - len(before) <= 1

    def refit(self, ds: str, works: bool) -> None:
        decisions, run = Decisions(self.settings), make_run_id(self.settings, ds)
        decided = decisions.read_all()
        if refit._explain_no_refit(decided, run, find_attempt(self.warehouse, run)):
            return
        promoted = next(d for d in reversed(list_accepted(decided)) if d.run_id == run)
        training = self.train(ds, make_refit_run_id(run))
        decision = Decision(ds, training.run_id, training.attempt, *promoted.model, Outcome.REFIT, "refit")
        refit.publish_refit(decisions, decision, [] if works else ["PCOC 3"])

    def promote(self, pick: int) -> None:
        if runs := self.warehouse.list_finished_runs():
            with suppress(UserError):
                Decisions(self.settings).promote(runs[pick % len(runs)], "drawn", by="ann")

    def rollback(self) -> None:
        with suppress(UserError):
            Decisions(self.settings).rollback("drawn", by="ann")

    def clean(self) -> None:
        for record in Path(self.warehouse.models).glob(f"*/attempt-*/{RECORD_FILE}"):
            os.utime(record, (1, 1))
        # Ages count from the newest night in the tables, which these sequences do not write.
        with patch.object(vacuum, "_list_nights", lambda *_: set(NIGHTS)):
            retention.run(self.settings, dry_run=False)

    def check_serving_model(self) -> None:
        decided = Decisions(self.settings).read_all()
        now = find_serving(decided)
        if now is None:
            return
        attempt = get_published_attempt(self.warehouse, *now.model)
        record = attempt.record()
        predictor = Predictor(attempt.folder, record["files"])
        files = list_live_files(
            self.trainings.table, version_of(self.trainings.table), [SplitPartition(LAYOUT.ds, "train")], LAYOUT
        )
        ids, rows = read_sample(files, LAYOUT, 200)
        scores = predictor.predict(rows.ints, rows.floats, rows.domain)
        np.testing.assert_allclose(scores, [record["sample_scores"][i] for i in ids], atol=1e-5)
        for decision in list_accepted(decided)[-1 - self.settings.retention.rollbacks :]:
            assert find_damaged_files(get_published_attempt(self.warehouse, *decision.model)) == []

    def check_manual_decision(self) -> None:
        decided = Decisions(self.settings).read_all()
        if decided and decided[-1].is_manual:  # even if the command was killed after the commit
            self.manual = (decided[-1].model, max(d.ds for d in decided))
        if self.manual:
            now = find_serving(decided)
            assert now is not None
            is_its_refit = (
                now.outcome is Outcome.REFIT and (now.reference_run_id, now.reference_attempt) == self.manual[0]
            )
            assert now.model == self.manual[0] or is_its_refit


def vocabularies_of_split(table: str, version: int) -> list[str]:
    from star_ctr.conf.contracts.vocabulary import list_vocabulary_files

    return list_vocabulary_files(table, version, LAYOUT.ds)


# Do not shrink failing sequences, which takes minutes.
@examples(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate),
)
@given(events=st.lists(EVENTS, min_size=10, max_size=18))
def test_the_serving_model_works_after_random_events(
    trainings: Trainings, events: list[tuple[str, str, bool, int, int | None]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sequence = Sequence(Path(folder), trainings)
        for event in events:
            sequence.run(*event)
