"""Callbacks of the training loop: scalars, records, checkpoints and stopping."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from star_ctr.conf.errors import UserError
from star_ctr.model.data.batch_order import DataFile
from star_ctr.model.data.batches import Batch
from star_ctr.model.data.reader import Rows
from star_ctr.model.train import make_callbacks
from star_ctr.model.training import checkpoint, trainer_state
from star_ctr.model.training.callbacks import Callback, CallbackEvent, StepResult
from star_ctr.model.training.callbacks.checkpoints_and_sigterm import Checkpoints, StoppedError
from star_ctr.model.training.callbacks.record import ShuffleQuality
from star_ctr.model.training.callbacks.scalars import MLflow, TensorBoard
from star_ctr.model.training.run import train
from star_ctr.model.training.trainer import Trainer
from tests.model.synthetic import LAYOUT, job

DOMAINS = set(LAYOUT.domains)


class Losses(Callback):
    """Collects the loss of each batch, with its domain and number of rows."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, float, int]] = []

    def step(self, event: CallbackEvent) -> None:
        self.seen += [(b.domain, b.loss, len(b.batch.rows)) for b in event.batches]


def mean_loss(seen: list[tuple[str, float, int]], domain: str | None = None) -> float:
    losses = [(loss, n) for d, loss, n in seen if domain in (None, d)]
    return sum(loss * n for loss, n in losses) / sum(n for _, n in losses)


def test_tensorboard_has_the_scalars_of_a_run(table: str, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    losses = Losses()
    train(job(table, tmp_path / "run"), [losses, TensorBoard(tmp_path / "events", seconds=1000)])
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    assert {f"loss/{d}" for d in DOMAINS} | {"loss/overall", "rows_per_second", "waiting_share", "lr"} <= set(
        events.Tags()["scalars"]
    )
    for name, domain in (("loss/overall", None), ("loss/a", "a")):
        (point,) = events.Scalars(name)
        assert point.step == len(losses.seen)
        assert point.value == pytest.approx(mean_loss(losses.seen, domain), rel=1e-6)
    assert events.Scalars("lr")[0].value == pytest.approx(0.001)
    assert 0 <= events.Scalars("waiting_share")[0].value <= 1
    assert events.Scalars("rows_per_second")[0].value > 0
    train(job(table, tmp_path / "again"), [TensorBoard(tmp_path / "events", seconds=1000)])
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    assert len(events.Scalars("lr")) == 1, "a run that starts again replaces its curves"


def test_mlflow_has_the_scalars_of_a_resumed_run(table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    import mlflow

    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    losses = Losses()
    for _ in range(2):
        train(
            job(table, tmp_path / "run"), [losses, MLflow("tests", "run 1", {"trainer.optimizer.lr": 0.001}, seconds=0)]
        )
    (run,) = mlflow.search_runs(experiment_names=["tests"], output_format="list")
    assert run.data.params == {"trainer.optimizer.lr": "0.001"}
    assert run.info.status == "FINISHED"
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss/b")
    want = [loss for d, loss, _ in losses.seen if d == "b"]
    assert [m.value for m in history] == pytest.approx(want)


def test_the_record_contains_throughput_and_shuffle_quality(table: str, tmp_path: Path) -> None:
    record = train(job(table, tmp_path))
    assert record["rows_per_second"] > 0
    assert 0 <= record["waiting_share"] <= 1
    assert 0 < record["shuffle_quality"] <= 1.2


def test_mixing_is_one_for_a_full_shuffle_and_zero_for_sequential_files() -> None:
    files = [DataFile(f"f{i}", 1, 400) for i in range(8)] + [DataFile("lone", 2, 100)]
    numbers = np.repeat(np.arange(8, dtype=np.int32), 400)

    def mixing(order: np.ndarray[tuple[int], np.dtype[np.int32]]) -> float | None:
        callback = ShuffleQuality(files, mixed=False)
        for start in range(0, len(order), 50):
            file = order[start : start + 50]
            rows = Rows(*(np.zeros((len(file), 1), t) for t in (np.int32, np.float32)), file, file)  # type: ignore[arg-type]
            callback.step(CallbackEvent(1, 1, batches=[StepResult(Batch(1, rows, file), "a", 0.7)]))
        return callback.found

    assert mixing(numbers) == 0.0
    assert mixing(np.random.default_rng(0).permutation(numbers)) == pytest.approx(1.0, abs=0.01)
    callback = ShuffleQuality(files, mixed=False)
    lone = np.full(50, 8, dtype=np.int32)
    rows = Rows(np.zeros((50, 1), np.int32), np.zeros((50, 1), np.float32), lone.astype(np.float32), lone)
    callback.step(CallbackEvent(1, 1, batches=[StepResult(Batch(2, rows, lone), "b", 0.7)]))
    assert callback.found is None


def test_the_newest_checkpoints_are_kept(table: str, tmp_path: Path) -> None:
    trainer = Trainer(job(table, tmp_path, keep=3, epochs=2))

    class SaveEveryStep(Callback):
        def step(self, event: CallbackEvent) -> None:
            trainer_state.save(trainer)

    trainer.train([SaveEveryStep()])
    steps = sorted(int(p.name.removeprefix("step-")) for p in (tmp_path / "checkpoint").glob("step-*"))
    assert steps == [trainer.steps - 2, trainer.steps - 1, trainer.steps]
    latest = checkpoint.find_latest(tmp_path / "checkpoint")
    assert latest is not None
    assert latest["step"] == trainer.steps


def test_a_damaged_checkpoint_falls_back_to_the_previous_one(table: str, tmp_path: Path) -> None:
    training = job(table, tmp_path, keep=2, epochs=2)
    trainer = Trainer(training)
    steps = iter(list(trainer._iter_batches()))
    for _ in range(3):
        trainer.train_step([next(steps)])
        trainer_state.save(trainer)
    folder = tmp_path / "checkpoint"
    newest, before = sorted(folder.glob("step-*"), reverse=True)
    assert (newest.name, before.name) == ("step-000000003", "step-000000002")
    tensors = newest / "common.safetensors"
    content = tensors.read_bytes()

    tensors.write_bytes(content[:-1])  # truncated
    again = Trainer(training)
    assert trainer_state.resume(again)
    assert again.step == 2
    tensors.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # same size, different content
    again = Trainer(training)
    with pytest.warns(UserWarning, match="the checkpoint is damaged"):
        assert trainer_state.resume(again)
    assert again.step == 2
    again.train_step([list(again._iter_batches())[2]])
    trainer_state.save(again)  # replaces the damaged checkpoint of step 3
    rewritten = Trainer(training)
    assert trainer_state.resume(rewritten)
    assert rewritten.step == 3
    tensors.write_bytes(content)
    (newest / "progress.json").write_text("")
    again = Trainer(training)
    assert trainer_state.resume(again)
    assert again.step == 2

    # Both are damaged: training starts from scratch, and its checkpoints are kept, although their steps are lower.
    (before / "progress.json").write_text("")
    again = Trainer(training)
    assert not trainer_state.resume(again)
    again.train_step([next(iter(again._iter_batches()))])
    trainer_state.save(again)
    assert [p.name for p in folder.glob("step-*")] == ["step-000000001"]


def test_a_killed_save_leaves_the_previous_checkpoint(table: str, tmp_path: Path) -> None:
    trainer = Trainer(job(table, tmp_path))
    trainer.train_step([next(iter(trainer._iter_batches()))])
    trainer_state.save(trainer)
    partial = tmp_path / "checkpoint" / ".step-000000002.partial"
    partial.mkdir()
    (partial / "common.safetensors").write_bytes(b"half")
    progress = checkpoint.find_latest(tmp_path / "checkpoint")
    assert progress is not None
    assert progress["step"] == 1


def test_resume_reports_changed_settings(table: str, tmp_path: Path) -> None:
    before = Trainer(job(table, tmp_path))
    with pytest.raises(UserError, match="no checkpoint to resume from"):
        trainer_state.resume(before, must=True)
    before.train_step([next(iter(before._iter_batches()))])
    trainer_state.save(before)
    other = Trainer(job(table, tmp_path, lr=0.5, processes=1, threads=2))
    with pytest.raises(UserError, match=r"changed since: trainer\.optimizer\.lr: 0\.001 -> 0\.5\. "):
        trainer_state.resume(other, must=True)
    assert not trainer_state.resume(other)
    assert trainer_state.resume(Trainer(job(table, tmp_path, minutes=9.0)), must=True), (
        "this setting does not change weights"
    )
    changed = job(table, tmp_path)
    changed = changed.model_copy(update={"versions": {**changed.versions, "vocabularies": 7}})
    with pytest.raises(UserError, match=r"versions\.vocabularies: None -> 7"):
        trainer_state.resume(Trainer(changed), must=True)


def test_a_stopped_training_saves_and_resumes_to_the_same_bits(table: str, tmp_path: Path) -> None:
    uninterrupted, stopped = (job(table, tmp_path / name, epochs=12, minutes=0.002) for name in "ab")
    train(uninterrupted)
    stopped.path.mkdir()
    (stopped.path / "job.json").write_text(stopped.model_dump_json())
    command = [sys.executable, "-m", "star_ctr.model.train", str(stopped.path / "job.json")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    folder = stopped.path / "checkpoint"
    deadline = time.monotonic() + 120
    while not checkpoint.find_latest(folder) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 3, stderr
    assert "after saving a checkpoint; run the same command again to resume" in stderr
    progress = checkpoint.find_latest(folder)
    assert progress is not None
    assert 0 < progress["step"] < Trainer(stopped).steps
    assert train(stopped)["resumed"]
    assert (stopped.path / "model.safetensors").read_bytes() == (uninterrupted.path / "model.safetensors").read_bytes()


def test_signals_are_handled_only_during_training() -> None:
    before = signal.getsignal(signal.SIGTERM)
    saved: list[int] = []
    callback = Checkpoints(lambda: saved.append(1), minutes=100)
    callback.begin(CallbackEvent(0, 5))
    callback.step(CallbackEvent(1, 5))
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(StoppedError, match="step 2 of 5"):
        callback.step(CallbackEvent(2, 5))
    callback.end(CallbackEvent(2, 5))
    assert saved == [1]
    callback.step(CallbackEvent(5, 5))
    assert saved == [1], "after the last step, a signal has no effect"
    assert signal.getsignal(signal.SIGTERM) is before


def test_mlflow_gets_each_setting_by_its_name(table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    (callback,) = (c for c in make_callbacks(job(table, tmp_path, lr=0.002)) if isinstance(c, MLflow))
    assert callback._settings["trainer.optimizer.lr"] == 0.002
    assert callback._settings["trainer.batch_size"] == 64
    assert not [name for name, value in callback._settings.items() if isinstance(value, dict) and "trainer" in name]
