"""Guarantees of the trainer: reproducible bits, unchanged other domains, and scores independent of the batch."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from star_ctr.conf.errors import DataError
from star_ctr.model.data.batches import iter_epoch
from star_ctr.model.data.reader import concat_rows, list_live_files, read_files
from star_ctr.model.predictor import Predictor
from star_ctr.model.train import write_job
from star_ctr.model.training.job import TrainingJob
from star_ctr.model.training.run import train
from star_ctr.model.training.trainer import Trainer
from tests.model.synthetic import LAYOUT, ROWS, act_at_step, job, without_dropout


def hash_weights(job: TrainingJob) -> str:
    return hashlib.sha256((job.path / "model.safetensors").read_bytes()).hexdigest()


def test_bits_depend_only_on_the_job_and_its_seed(table: str, tmp_path: Path) -> None:
    jobs = [job(table, tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    records = [train(j) for j in jobs]
    assert hash_weights(jobs[0]) == hash_weights(jobs[1]) != hash_weights(jobs[2])
    assert records[0]["rows"] == ROWS
    assert records[0]["single_row_batches"] == {"c": 1}


def test_a_step_on_one_domain_does_not_change_the_others_by_a_bit(table: str, tmp_path: Path) -> None:
    trainer = Trainer(job(table, tmp_path, weight_decay=0.1))
    batches = list(iter_epoch(trainer.files, LAYOUT, 64, 200, 0, 0))
    for batch in batches[:6]:
        trainer.train_step([batch])

    def state(p: int) -> dict[str, torch.Tensor]:
        """Return the state of domain p: weights, EMA with step counters, normalization statistics, optimizer state."""
        tensors = {
            f"model/{n}": t for n, t in trainer.model.named_parameters() if f"_p.{p}" in n or n == f"aux.domain.{p}"
        }
        tensors |= {
            f"average/{n}": t for n, t in trainer.ema.state_dict().items() if f"_p.{p}/" in n or f"aux.domain.{p}/" in n
        }
        tensors |= {
            f"optimizer/{n}": t
            for n, t in trainer.optimizers.state_dict().items()
            if f"_p.{p}/" in n or f"aux.domain.{p}/" in n
        }
        tensors |= {"mean": trainer.model.norm.mean[p], "var": trainer.model.norm.var[p]}
        return {n: t.detach().clone() for n, t in tensors.items()}

    before = {p: state(p) for p in range(4)}
    batch = next(b for b in batches[6:] if b.domain == 1)
    trainer.train_step([batch])
    after = {p: state(p) for p in range(4)}
    for p in (0, 2, 3):
        assert before[p].keys() == after[p].keys()
        assert all(torch.equal(before[p][n], after[p][n]) for n in before[p]), f"domain {p} changed"
    changed = [n for n in before[1] if not torch.equal(before[1][n], after[1][n])]
    assert {n.split("/")[0] for n in changed} == {"model", "average", "optimizer", "mean", "var"}
    assert {"average/network.layers.0.weight_p.1/weight", "average/network.layers.0.weight_p.1/steps"} <= set(changed)


def test_a_step_visits_no_parameters_of_other_domains(table: str, tmp_path: Path) -> None:
    trainer = Trainer(job(table, tmp_path))
    batches = [b for b in iter_epoch(trainer.files, LAYOUT, 64, 200, 0, 0) if b.domain in (1, 2)]
    names = {p: n for n, p in trainer.model.named_parameters()}
    for batch in batches[:6]:
        trainer.train_step([batch])
        visited = {names[p] for group in trainer.optimizers.dense.param_groups for p in group["params"]}
        changed = {n for p, n in names.items() if p.grad is not None and not n.startswith("inputs.tables.")}
        assert visited == changed
        assert f"network.layers.0.weight_p.{batch.domain}" in visited


def test_domain_weights_have_a_separate_rate_and_decay_towards_the_shared_model(table: str, tmp_path: Path) -> None:
    trainer = Trainer(job(table, tmp_path, weight_decay=0.5, domain_lr=0.1, domain_decay=2.0))
    layer, norm = trainer.model.network.layers[0], trainer.model.norm
    with torch.no_grad():
        layer.weight_p[1].fill_(3.0)
        norm.gamma_p[1].fill_(3.0)
        norm.beta_p[1].fill_(3.0)
    shared = layer.weight.detach().clone()
    for p in (layer.weight, layer.weight_p[1], norm.gamma_p[1], norm.beta_p[1]):
        p.grad = torch.zeros_like(p)
    trainer.optimizers.step(0)
    lr = trainer.settings.optimizer.lr
    torch.testing.assert_close(layer.weight.detach(), shared * (1 - 0.5 * lr))
    torch.testing.assert_close(layer.weight_p[1].detach(), torch.full_like(shared, 1 + 2 * (1 - 0.1 * 2.0)))
    assert norm.gamma_p[1].detach().unique().item() == pytest.approx(1 + 2 * (1 - 0.1 * 2.0))
    assert norm.beta_p[1].detach().unique().item() == pytest.approx(3 * (1 - 0.1 * 2.0))
    assert torch.equal(layer.weight_p[2], torch.ones_like(layer.weight_p[2])), "this domain is not in the step"
    layer.weight_p[1].grad = torch.ones_like(shared)
    trainer.optimizers.zero_grad()
    before = layer.weight_p[2].detach().clone()
    layer.weight_p[2].grad = torch.ones_like(before)
    trainer.optimizers.step(1)
    # The first step of Adam on a parameter equals the learning rate, for any gradient.
    torch.testing.assert_close(layer.weight_p[2].detach(), before - 0.1, atol=1e-5, rtol=0)


def test_scores_do_not_depend_on_the_batch(table: str, tmp_path: Path) -> None:
    j = job(table, tmp_path)
    record = train(j)
    sample_scores = record["sample_scores"]
    assert len(sample_scores) == 27  # the first test file of each domain
    from star_ctr.model.parity_sample import read_sample

    ids, rows = read_sample(list_live_files(table, j.versions["split"], j.test_partitions, LAYOUT), LAYOUT, 200)
    domains = rows.domain
    predictor = Predictor(j.path)
    scores = predictor.predict(rows.ints, rows.floats, domains)
    trainer_scores = np.array([sample_scores[i] for i in ids])
    assert np.abs(scores - trainer_scores).max() < 1e-5
    order = np.random.default_rng(0).permutation(len(ids))
    shuffled = predictor.predict(rows.ints[order], rows.floats[order], domains[order])
    assert np.abs(shuffled - scores[order]).max() < 1e-5
    alone = [predictor.predict(rows.ints[i : i + 1], rows.floats[i : i + 1], domains[i : i + 1])[0] for i in range(20)]
    assert np.abs(np.array(alone) - scores[:20]).max() < 1e-5


def test_normalization_statistics_are_those_of_the_training_rows(table: str, tmp_path: Path) -> None:
    trainer = Trainer(job(table, tmp_path, norm_statistics_prior=0))
    trainer.train()
    used, _ = trainer.finish()
    assert used == {1: 700, 2: 150, 3: 1}
    rows = concat_rows(
        [r for f, r in zip(trainer.files, read_files(trainer.files, LAYOUT), strict=True) if f.domain == 2]
    )
    z = trainer.model.inputs(torch.from_numpy(rows.ints.copy()), torch.from_numpy(rows.floats.copy())).detach().numpy()
    np.testing.assert_allclose(trainer.model.norm.mean[2].numpy(), z.mean(0), atol=1e-5)
    np.testing.assert_allclose(trainer.model.norm.var[2].numpy(), z.var(0), atol=1e-5)


def test_calibration_makes_predicted_clicks_equal_actual_clicks(table: str, tmp_path: Path) -> None:
    trainer = Trainer(job(table, tmp_path))
    trainer.train()
    _, shifts = trainer.finish()
    rows = concat_rows(
        [r for f, r in zip(trainer.files, read_files(trainer.files, LAYOUT), strict=True) if f.domain == 1]
    )
    ones = torch.ones(len(rows), dtype=torch.int32)
    predicted = trainer.model.predict(torch.from_numpy(rows.ints.copy()), torch.from_numpy(rows.floats.copy()), ones)
    # The penalty on the shift allows a difference of |shift| clicks.
    assert abs(float(predicted.sum()) - rows.label.sum()) < abs(shifts.label[1]) + 0.01
    assert abs(shifts.label[3]) < 1, "one row must not determine an output bias"


def test_the_window_is_also_bounded_in_bytes(table: str, tmp_path: Path) -> None:
    def list_drawn_files(**settings: int) -> list[list[int]]:
        batches = list(Trainer(job(table, tmp_path, **settings))._iter_batches())
        assert LAYOUT.row_bytes * len(batches[0].rows) == sum(
            a.nbytes for a in (*vars(batches[0].rows).values(), batches[0].file) if a is not None
        )
        return [b.file.tolist() for b in batches]

    wide, narrow = list_drawn_files(window_rows=800), list_drawn_files(window_rows=100)
    assert list_drawn_files(window_rows=800, window_bytes=100 * LAYOUT.row_bytes) == narrow != wide
    assert sorted(map(len, narrow)) == sorted(map(len, wide))


def test_the_loss_decreases(table: str, tmp_path: Path) -> None:
    record = train(job(table, tmp_path, epochs=8, lr=0.01))
    losses = [loss for _, loss in record["curve"]]
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.03


def test_a_nan_loss_stops_the_run_and_names_step_and_domain(table: str, tmp_path: Path) -> None:
    trainer = Trainer(job(table, tmp_path))
    batch = next(iter_epoch(trainer.files, LAYOUT, 64, 200, 0, 0))
    batch.rows.floats = np.full_like(batch.rows.floats, np.nan)
    with pytest.raises(DataError, match="step 1, domain .*loss is nan"):
        trainer.train_step([batch])


RUN = "import sys; from star_ctr.model.train import main; main(sys.argv[1])"


@pytest.mark.parametrize("wait_for_step", [3])
def test_a_killed_and_resumed_training_has_the_same_bits(table: str, tmp_path: Path, wait_for_step: int) -> None:
    settings = {"epochs": 12, "minutes": 0.002}
    uninterrupted = job(table, tmp_path / "uninterrupted", **settings)
    whole = train(uninterrupted)
    killed = job(table, tmp_path / "killed", **settings)
    process = subprocess.Popen([sys.executable, "-c", RUN, str(write_job(killed))], stderr=subprocess.DEVNULL)
    act_at_step(process, killed, wait_for_step, process.kill)
    process.wait()
    assert process.returncode == -signal.SIGKILL, "the training run finished before it was killed"
    record = train(killed)
    assert record["resumed"]
    assert hash_weights(killed) == hash_weights(uninterrupted)
    assert record["rows"] == {d: 12 * n for d, n in ROWS.items()}
    assert {k: record[k] for k in ("curve", "shuffle_quality", "rows", "steps")} == {
        k: whole[k] for k in ("curve", "shuffle_quality", "rows", "steps")
    }, "the record covers the whole training run"


def test_a_training_killed_after_the_last_step_is_finished_without_training(table: str, tmp_path: Path) -> None:
    j = job(table, tmp_path)
    before, model = train(j), hash_weights(j)
    (tmp_path / "result.json").unlink()
    (tmp_path / "model.safetensors").unlink()
    again = train(j)
    assert again["resumed"]
    assert hash_weights(j) == model
    assert {k: v for k, v in again.items() if k != "resumed"} == {k: v for k, v in before.items() if k != "resumed"}


def test_bfloat16_rounds_only_the_products_of_layers(table: str, tmp_path: Path) -> None:
    """Its gradient is close to that of float32. Weights, optimizer state and exported weights remain float32."""
    gradients = []
    for precision in ("float32", "bfloat16"):
        trainer = Trainer(without_dropout(table, tmp_path / precision, precision=precision))
        trainer.train_step([next(b for b in trainer._iter_batches() if b.domain == 1)])
        dense = [p.grad for n, p in trainer.model.named_parameters() if p.grad is not None and not p.grad.is_sparse]
        gradients.append(torch.cat([g.flatten() for g in dense]))
        assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
        assert {t.dtype for n, t in trainer.optimizers.state_dict().items() if not n.endswith("step")} == {
            torch.float32
        }
    full, half = gradients
    error = float((full - half).norm() / full.norm())
    assert 0 < error < 0.02, "bfloat16 keeps eight bits: 0.4% per product"
    repeated = [job(table, tmp_path / name, precision="bfloat16") for name in ("one", "other")]
    assert len({train(j)["fingerprint"] for j in repeated}) == 1
    assert hash_weights(repeated[0]) == hash_weights(repeated[1])
    assert {t.dtype for t in load_file(repeated[0].path / "model.safetensors").values()} == {torch.float32}
