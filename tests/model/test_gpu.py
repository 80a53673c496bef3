"""Compares results on a GPU with those on the CPU, within floating point noise. Skipped without a GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.data.batches import iter_epoch, prefetch
from star_ctr.model.data.reader import list_live_files
from star_ctr.model.layers.segments import find_segments
from star_ctr.model.models.multi_domain import MultiDomainModel
from star_ctr.model.parity_sample import read_sample
from star_ctr.model.predictor import Predictor
from star_ctr.model.train import write_job
from star_ctr.model.training.job import TrainingJob
from star_ctr.model.training.run import train
from star_ctr.model.training.trainer import Trainer
from tests.model.synthetic import (
    ALL,
    LAYOUT,
    act_at_step,
    assert_same_model,
    assert_same_weights,
    job,
    record,
    without_dropout,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

MODELS: dict[str, dict[str, Any]] = {
    **{name: {"name": name} for name in ALL},
    "mulann": {"name": "mulann", "norm": "bn"},
    "layer norm": {"norm": "ln"},
    "din": {"pooling": "din"},
    "dien": {"pooling": "dien"},
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.usefixtures("float64")
def test_scores_and_gradients_of_every_model_match_the_cpu(name: str) -> None:
    rng = np.random.default_rng(0)
    domain = np.sort(rng.integers(1, 4, 60)).astype(np.int32)
    ints = np.column_stack([rng.integers(0, 30, (60, 2)), rng.integers(0, 5, 60), rng.integers(0, 30, (60, 4))])
    ints[:, 3:] *= np.arange(4) < ints[:, 2:3]
    floats, label = rng.normal(size=(60, 1)), (rng.random(60) < 0.3).astype(float)
    settings = ModelSettings.model_validate({"layers": [16, 8], "dim": 4, "domain_spread": 0.1, **MODELS[name]})
    torch.manual_seed(0)
    start = MultiDomainModel(LAYOUT, settings).state_dict()
    seen = []
    for device in ("cpu", "cuda"):
        model = MultiDomainModel(LAYOUT, settings).to(device)
        model.load_state_dict(start)
        torch.default_generator.manual_seed(1)
        ints_BI = torch.from_numpy(ints.astype(np.int32)).to(device)
        floats_BN = torch.from_numpy(floats).to(device)
        segments = find_segments(domain)
        logit_B = model(ints_BI, floats_BN, segments)
        loss = F.binary_cross_entropy_with_logits(logit_B, torch.from_numpy(label).to(device))
        if (more := model.auxiliary_loss(segments)) is not None:
            loss = loss + more
        loss.backward()  # type: ignore[no-untyped-call]
        model.eval()
        score_B = model.predict(ints_BI, floats_BN, torch.from_numpy(domain.astype(np.int64)).to(device))
        found = {"logit": logit_B.detach(), "score": score_B}
        for parameter, weight in model.named_parameters():
            if weight.grad is not None:
                found[parameter] = weight.grad.to_dense()
        seen.append({key: value.cpu() for key, value in found.items()})
    cpu, gpu = seen
    assert cpu.keys() == gpu.keys()
    for key, value in cpu.items():
        np.testing.assert_allclose(gpu[key].numpy(), value.numpy(), atol=1e-9, rtol=1e-9, err_msg=key)


def test_training_on_a_gpu_matches_the_cpu(table: str, tmp_path: Path, alone: TrainingJob) -> None:
    j = without_dropout(table, tmp_path, device="cuda")
    assert train(j)["device"] == "cuda:0"
    assert_same_model(alone, j)
    assert Trainer(job(table, tmp_path, device="auto")).device.type == "cuda", "`auto` uses a GPU if there is one"


@pytest.mark.parametrize(("first", "second"), [("cuda", "cpu"), ("cpu", "cuda"), ("cuda", "cuda")])
def test_a_killed_training_resumes_on_another_device(
    table: str, tmp_path: Path, alone: TrainingJob, first: str, second: str
) -> None:
    killed = without_dropout(table, tmp_path, device=first)
    command = [sys.executable, "-m", "star_ctr.model.train", str(write_job(killed))]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    act_at_step(process, killed, 10, process.kill)
    process.wait()
    resumed = without_dropout(table, tmp_path, device=second)
    assert train(resumed)["resumed"]
    assert_same_model(alone, resumed)


def test_processes_on_gpus_use_nccl(table: str, tmp_path: Path, alone: TrainingJob) -> None:
    """One process per GPU, at most two. A single process also initializes the group and selects its device."""
    processes = min(2, torch.cuda.device_count())
    j = without_dropout(table, tmp_path, device="cuda", processes=processes)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    subprocess.run([*command, "-m", "star_ctr.model.train", str(write_job(j))], check=True)
    assert record(j)["processes"] == processes
    assert_same_weights(alone, j)


def test_the_export_of_a_gpu_training_scores_the_same_on_the_cpu(table: str, tmp_path: Path) -> None:
    j = job(table, tmp_path, device="cuda")
    sample_scores = train(j)["sample_scores"]
    ids, rows = read_sample(list_live_files(table, j.versions["split"], j.test_partitions, LAYOUT), LAYOUT, 200)
    scores = Predictor(j.path).predict(rows.ints, rows.floats, rows.domain)
    assert np.abs(scores - np.array([sample_scores[i] for i in ids])).max() < 1e-5


def test_batches_for_a_gpu_are_in_pinned_memory_and_unchanged(table: str, tmp_path: Path) -> None:
    files = Trainer(job(table, tmp_path)).files
    plain, pinned = (list(prefetch(iter_epoch(files, LAYOUT, 64, 200, 0, 0), pin=pin)) for pin in (False, True))
    for a, b in zip(plain, pinned, strict=True):
        assert a.domain == b.domain
        for x, y in ((a.rows.ints, b.rows.ints), (a.rows.floats, b.rows.floats), (a.rows.label, b.rows.label)):
            np.testing.assert_array_equal(x, y)
            assert torch.from_numpy(y).is_pinned()


def test_gradients_in_bfloat16_on_a_gpu_are_close_to_float32(table: str, tmp_path: Path) -> None:
    gradients = []
    for precision in ("float32", "bfloat16"):
        trainer = Trainer(without_dropout(table, tmp_path / precision, precision=precision, device="cuda"))
        trainer.train_step([next(b for b in trainer._iter_batches() if b.domain == 1)])
        dense = [p.grad for p in trainer.model.parameters() if p.grad is not None and not p.grad.is_sparse]
        gradients.append(torch.cat([g.flatten() for g in dense]))
        assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    full, half = gradients
    assert 0 < float((full - half).norm() / full.norm()) < 0.02
