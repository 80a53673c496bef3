"""Weights of training rows: their scale, the loss, calibration, and training that does not depend on their unit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from star_ctr.conf.contracts.encoded_row import SplitPartition
from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.data.batch_order import DataFile
from star_ctr.model.data.batches import Batch, iter_epoch
from star_ctr.model.data.negative_downsampling import downsample_files, resolve_rates
from star_ctr.model.data.reader import Rows, concat_rows, list_live_files, read_files
from star_ctr.model.data.row_weights import add_mean_weight
from star_ctr.model.predictor import Predictor
from star_ctr.model.training.callbacks import Callback, CallbackEvent, StepResult
from star_ctr.model.training.callbacks.record import LossCurve
from star_ctr.model.training.job import TrainingJob
from star_ctr.model.training.run import train
from star_ctr.model.training.trainer import Trainer
from tests.model.synthetic import LAYOUT, WEIGHTED, job, record, version_of, without_dropout, write_split

ROWS = {"a": 700, "b": 150, "c": 1}


def draw_weights(label: np.ndarray) -> np.ndarray:
    """Draw unequal weights; those of clicked rows are four times as large on average."""
    return np.random.default_rng(len(label)).gamma(0.7, size=len(label)) * np.where(label > 0, 4.0, 1.0) + 1e-6


@pytest.fixture(scope="module")
def weighted(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("weighted")
    write_split(folder, part="test", rows={"a": 60, "b": 20}, weigh=np.ones_like)
    return write_split(folder, ROWS, weigh=draw_weights)


def make_job(table: str, folder: Path, **trainer: object) -> TrainingJob:
    return without_dropout(table, folder, **trainer).model_copy(update={"layout": WEIGHTED})


def list_files(table: str) -> list[DataFile]:
    return list_live_files(table, version_of(table), [SplitPartition(LAYOUT.ds, "train")], LAYOUT)


def read_weights(files: list[DataFile]) -> np.ndarray:
    weight = concat_rows(list(read_files(files, WEIGHTED))).weight
    assert weight is not None
    return weight.astype(np.float64)


def compute_losses(logit: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Compute the cross entropy of each row (eq. 8)."""
    p = 1 / (1 + np.exp(-logit.astype(np.float64)))
    return -(label * np.log(p) + (1 - label) * np.log(1 - p))


def test_weights_are_divided_by_the_mean_of_the_rows_that_are_used(weighted: str) -> None:
    files = list_files(weighted)
    everything = add_mean_weight(files)
    assert read_weights(everything).mean() == pytest.approx(1, abs=1e-6)
    label = concat_rows(list(read_files(files, LAYOUT))).label
    stored = [draw_weights(rows.label) for rows in read_files(files, LAYOUT)]
    np.testing.assert_allclose(
        read_weights(everything), np.concatenate(stored) / np.concatenate(stored).mean(), rtol=1e-6
    )
    sampled = add_mean_weight(downsample_files(files, resolve_rates(0.3, LAYOUT.domain_index), seed=2)[0])
    assert sum(f.rows for f in sampled) < len(label)
    assert read_weights(sampled).mean() == pytest.approx(1, abs=1e-6)
    assert sampled[0].mean_weight > everything[0].mean_weight  # clicked rows, which have larger weights, are kept
    assert concat_rows(list(read_files(files, LAYOUT))).weight is None


@pytest.mark.parametrize("mixed", [False, True])
def test_rows_keep_their_weight_in_every_batch(weighted: str, mixed: bool) -> None:
    files = add_mean_weight(list_files(weighted))
    everything = concat_rows(list(read_files(files, WEIGHTED)))
    batches = list(iter_epoch(files, WEIGHTED, 64, 300, seed=1, epoch=0, mixed=mixed))

    def sort(rows: Rows) -> list[tuple[bytes, float, float]]:
        return sorted(zip(map(bytes, rows.ints), rows.floats[:, 0], rows.weight, strict=True))

    assert sort(concat_rows([b.rows for b in batches])) == sort(everything)
    for start in (1, len(batches) - 1):
        rest = list(iter_epoch(files, WEIGHTED, 64, 300, seed=1, epoch=0, mixed=mixed, start=start))
        assert [b.rows.weight.tobytes() for b in rest] == [b.rows.weight.tobytes() for b in batches[start:]]
    # Batches are those of rows without weights.
    plain = list(iter_epoch(list_files(weighted), LAYOUT, 64, 300, seed=1, epoch=0, mixed=mixed))
    assert [b.rows.ints.tobytes() for b in plain] == [b.rows.ints.tobytes() for b in batches]


def test_the_loss_of_a_batch_is_the_weighted_mean_and_the_step_uses_the_mean_over_its_rows(
    weighted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(make_job(weighted, tmp_path))
    batch = next(b for b in trainer._iter_batches() if b.domain == 1)
    rows = batch.rows
    trainer.model.train()
    logit = trainer.model(torch.from_numpy(rows.ints), torch.from_numpy(rows.floats), [(1, 0, len(rows))])
    losses = compute_losses(logit.detach().numpy(), rows.label)
    (torch.from_numpy(rows.weight) * torch.nn.functional.softplus(torch.where(
        torch.from_numpy(rows.label) > 0, -logit, logit
    ))).sum().div(len(rows)).backward()  # fmt: skip
    gradients = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
    found: dict[str, torch.Tensor] = {}
    step = trainer.optimizers.step

    def save_gradients(*arguments: object) -> torch.Tensor:
        found.update({n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None})
        return step(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer.optimizers, "step", save_gradients)
    [loss] = trainer.train_step([batch])
    assert loss == pytest.approx(np.average(losses, weights=rows.weight), rel=1e-5)
    assert loss != pytest.approx(losses.mean(), rel=0.01)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        a, b = ((g.to_dense() if g.is_sparse else g).numpy() for g in (found[name], gradient))
        np.testing.assert_allclose(a, b, atol=1e-6, err_msg=name)


def test_whole_weights_equal_repeated_rows(weighted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without batch statistics and dropout, a row of weight 3 is three rows, up to the number of rows of the batch."""
    rows = next(read_files(list_files(weighted), LAYOUT)).part(slice(0, 40))
    times = np.random.default_rng(0).integers(1, 5, len(rows))
    once = Rows(rows.ints, rows.floats, rows.label, rows.domain, weight=times.astype(np.float32))
    repeated = rows.part(np.repeat(np.arange(len(rows)), times))
    losses, gradients = [], []
    for part in (once, repeated):
        j = make_job(weighted, tmp_path)
        j = j.model_copy(update={"model": ModelSettings(layers=[16, 8], dim=4, dropout=0.0, norm="ln")})
        trainer = Trainer(j)
        monkeypatch.setattr(trainer.optimizers, "step", lambda *arguments: arguments[2])
        losses += trainer.train_step([Batch(1, part, np.zeros(len(part), np.int32))])
        gradients.append({n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None})
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for name, gradient in gradients[0].items():
        a, b = ((g.to_dense() if g.is_sparse else g).numpy() for g in (gradient, gradients[1][name]))
        np.testing.assert_allclose(a * len(rows) / times.sum(), b, atol=1e-6, err_msg=name)


def test_equal_weights_change_nothing_and_their_unit_neither(tmp_path: Path) -> None:
    def train_with(name: str, factor: float | None, equal: bool) -> bytes:
        table = write_split(
            tmp_path / name,
            {"a": 300, "b": 80},
            weigh=factor and (lambda y: (np.ones_like(y) if equal else draw_weights(y)) * factor),  # type: ignore[arg-type]
        )
        j = job(table, tmp_path / name / "run", epochs=1)
        train(j.model_copy(update={"layout": WEIGHTED}) if factor else j)
        return (j.path / "model.safetensors").read_bytes()

    plain = train_with("plain", None, equal=True)
    assert train_with("equal", 7.0, equal=True) == plain
    unequal = train_with("unequal", 1.0, equal=False)
    assert unequal != plain
    assert train_with("unit", 2.0**20, equal=False) == unequal


@pytest.mark.parametrize("negatives", [1.0, 0.2])
def test_weighted_predictions_equal_weighted_clicks(tmp_path: Path, negatives: float) -> None:
    table = write_split(tmp_path, {"a": 3_000, "b": 1_000}, weigh=draw_weights)
    j = job(table, tmp_path / "run", negatives=negatives, epochs=3).model_copy(update={"layout": WEIGHTED})
    found = train(j)
    rows = concat_rows(list(read_files(add_mean_weight(list_files(table)), WEIGHTED)))
    scores = Predictor(j.path).predict(rows.ints, rows.floats, rows.domain)
    assert rows.weight is not None
    for p in (1, 2):
        own = rows.domain == p
        weight, label = rows.weight[own], rows.label[own]
        assert (weight @ scores[own]) / (weight @ label) == pytest.approx(1, abs=0.03)
        assert scores[own].sum() / label.sum() > 1.3  # clicked rows have larger weights
    assert found["mean_weight"] == add_mean_weight(list_files(table))[0].mean_weight or negatives < 1
    assert sum(found["rows"].values()) == j.trainer.epochs * (4_000 - sum(found["left_out"].values()))


def test_weights_undo_sampling(tmp_path: Path) -> None:
    """A fifth of the rows without a click, with five times the weight, stands for all of them."""

    def weigh(label: np.ndarray) -> np.ndarray:
        sampled = np.random.default_rng(len(label)).random(len(label)) < 0.2
        return np.where(label > 0, 1.0, np.where(sampled, 5.0, 1e-9))

    table = write_split(tmp_path, {"a": 6_000, "b": 3_000}, weigh=weigh)
    j = job(table, tmp_path / "run", epochs=2).model_copy(update={"layout": WEIGHTED})
    train(j)
    rows = concat_rows(list(read_files(list_files(table), LAYOUT)))
    scores = Predictor(j.path).predict(rows.ints, rows.floats, rows.domain)
    for p in (1, 2):
        own = rows.domain == p
        assert scores[own].sum() / rows.label[own].sum() == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize(
    "model",
    [{"name": "mulann", "norm": "bn"}, {"pooling": "dien", "norm": "bn"}, {"name": "pepnet", "norm": "bn"}],
    ids=["mulann", "dien", "pepnet"],
)
def test_auxiliary_losses_ignore_weights(
    weighted: str, tmp_path: Path, model: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for layout in (LAYOUT, WEIGHTED):
        j = make_job(weighted, tmp_path, batches="mixed").model_copy(update={"layout": layout})
        trainer = Trainer(j.model_copy(update={"model": j.model.model_copy(update=model)}))
        auxiliary = trainer.model.auxiliary_loss
        monkeypatch.setattr(trainer.model, "auxiliary_loss", lambda s, f=auxiliary: found.append(f(s)) or found[-1])
        trainer.train_step([next(trainer._iter_batches())])
    assert found[0] == found[1]
    assert (found[0] is None) == (model.get("name") == "pepnet")


def test_the_baseline_and_the_last_loss_are_weighted() -> None:
    curve = LossCurve()
    rng = np.random.default_rng(3)
    parts = []
    for step, domain in enumerate((1, 2, 1, 2), start=1):
        n = 30
        label, weight = (rng.random(n) < 0.3).astype(np.float32), rng.gamma(1, size=n).astype(np.float32)
        ints, floats = np.zeros((n, 1), np.int32), np.zeros((n, 1), np.float32)
        rows = Rows(ints, floats, label, np.full(n, domain, np.int32), weight=weight)
        batch = Batch(domain, rows, np.zeros(n, np.int32))
        event = CallbackEvent(step, 4, batches=[StepResult(batch, "d", 0.1 * step)])
        curve.step(event)
        assert event.loss == pytest.approx(0.1 * step)
        parts.append((domain, label, weight))
    entropy = total = 0.0
    for p in (1, 2):
        label, weight = (np.concatenate([part[k] for part in parts if part[0] == p]) for k in (1, 2))
        rate = np.average(label, weights=weight)
        entropy += weight.sum() * -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
        total += weight.sum()
    assert curve.baseline_loss == pytest.approx(entropy / total, abs=2e-6)
    assert curve.last_loss == pytest.approx(0.4)


class Interruption(Callback):
    """Interrupts training at a step."""

    def step(self, event: CallbackEvent) -> None:
        if event.step == 9:
            raise InterruptedError


def test_a_weighted_run_resumes_with_the_same_bits(weighted: str, tmp_path: Path) -> None:
    one, other = make_job(weighted, tmp_path / "one", epochs=2), make_job(weighted, tmp_path / "other", epochs=2)
    train(one)
    with pytest.raises(InterruptedError):
        train(other, [Interruption()])
    assert train(other)["resumed"]
    assert (one.path / "model.safetensors").read_bytes() == (other.path / "model.safetensors").read_bytes()
    assert record(one)["baseline_loss"] == record(other)["baseline_loss"]
