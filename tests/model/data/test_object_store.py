"""Training on a split in an object store, into a folder of the store, gives the same bits as on local files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest

from star_ctr.conf.files import copy_file, hash_file, open_folder, remove_folder, write_json
from star_ctr.model.predictor import Predictor
from star_ctr.model.tensor_files import read_metadata, read_tensors
from star_ctr.model.train import make_callbacks, write_job
from star_ctr.model.training import checkpoint
from star_ctr.model.training.job import TrainingJob
from star_ctr.model.training.run import train
from tests.model.synthetic import TOLERANCE, act_at_step, job


@pytest.fixture
def jobs(bucket: str, table: str, tmp_path: Path) -> tuple[TrainingJob, TrainingJob]:
    """Return the same job with local files and with an object store."""
    fsspec.filesystem("s3").put(table, f"{bucket}/shop/split", recursive=True)
    local = job(table, tmp_path / "local", epochs=12, minutes=0.002, tensorboard=True)
    url = bucket.replace("s3://", "s3a://")
    return local, local.model_copy(update={"split": f"{url}/shop/split", "folder": f"{url}/my models/run"})


def test_the_same_model_is_trained_in_a_bucket(jobs: tuple[TrainingJob, TrainingJob]) -> None:
    for each in jobs:
        train(each, make_callbacks(each))
    local, remote = (each.path / "model.safetensors" for each in jobs)
    assert hash_file(remote) == hash_file(local)
    assert read_metadata(remote) == read_metadata(local) != {}
    assert {n: t.tolist() for n, t in read_tensors(remote).items()} == {
        n: t.tolist() for n, t in read_tensors(local).items()
    }
    rows = np.zeros((3, 7), np.int32), np.zeros((3, 1), np.float32), np.array([0, 1, 2], np.int32)
    predictions = [Predictor(each.path, {"model.safetensors": hash_file(local)}).predict(*rows) for each in jobs]
    np.testing.assert_array_equal(*predictions)
    # The curves are copied when training ends.
    assert len([*(jobs[1].path / "tensorboard").iterdir()]) == len([*(jobs[0].path / "tensorboard").iterdir()]) == 1
    names = [[c["folder"] for c in checkpoint.list_checkpoints(each.path / "checkpoint")] for each in jobs]
    assert names[0][0] == names[1][0]


@pytest.mark.slow
def test_two_killed_processes_resume_from_their_checkpoint_in_a_bucket(jobs: tuple[TrainingJob, TrainingJob]) -> None:
    local, remote = (
        each.model_copy(
            update={
                "trainer": each.trainer.model_copy(update={"processes": 2}),
                "model": each.model.model_copy(update={"dropout": 0.0}),
            }
        )
        for each in jobs
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "star_ctr.model.train", str(write_job(remote))]
    process = subprocess.Popen(command, start_new_session=True)
    act_at_step(process, remote, 3, lambda: os.killpg(process.pid, signal.SIGKILL))  # type: ignore[arg-type]
    assert process.wait() == -signal.SIGKILL
    assert checkpoint.find_latest(remote.path / "checkpoint") is not None
    assert not (remote.path / "result.json").exists()
    subprocess.run(command, check=True)
    train(local)
    assert '"resumed": true' in (remote.path / "result.json").read_text()
    ours, expected = (read_tensors(each.path / "model.safetensors") for each in (remote, local))
    for name, tensor in expected.items():
        np.testing.assert_allclose(ours[name], tensor, atol=TOLERANCE, err_msg=name)


def test_a_checkpoint_in_a_bucket_is_complete_or_ignored(bucket: str) -> None:
    """`progress.json` is written last, so a checkpoint that is cut off does not count."""
    import torch

    folder = open_folder(f"{bucket}/runs/checkpoint")
    for step in (1, 2):
        checkpoint.save(folder, {"w": torch.full((3,), float(step))}, {"step": step}, keep=2)
    (folder / "step-000000003" / "common.safetensors").write_bytes(b"cut")
    assert [c["step"] for c in checkpoint.list_checkpoints(folder)] == [2, 1]
    (folder / "step-000000002" / "common.safetensors").write_bytes(b"cut off")
    newest = checkpoint.find_latest(folder)
    assert newest is not None
    assert newest["step"] == 1
    checkpoint.save(folder, {"w": torch.full((3,), 2.5)}, {"step": 2})
    assert [c["step"] for c in checkpoint.list_checkpoints(folder)] == [2]
    newest = checkpoint.find_latest(folder)
    assert newest is not None
    assert checkpoint.load(folder, newest)["w"].tolist() == [2.5] * 3
    assert [f.name for f in folder.iterdir()] == ["step-000000002"]


def test_files_and_folders_of_a_bucket(bucket: str, tmp_path: Path) -> None:
    folder = open_folder(f"{bucket}/a b#1%/x")
    write_json(folder / "inner" / "one.json", {"n": 1})
    write_json(open_folder(str(tmp_path)) / "one.json", {"n": 1})
    assert hash_file(folder / "inner" / "one.json") == hash_file(tmp_path / "one.json")
    copy_file(str(folder / "inner" / "one.json"), tmp_path / "copy.json")
    copy_file(str(tmp_path / "copy.json"), folder / "other" / "copy.json")
    assert sorted(f.name for f in folder.rglob("*.json")) == ["copy.json", "one.json"]
    write_json(open_folder(f"{bucket}/a b#1%/xy") / "kept.json", {})
    remove_folder(folder)
    remove_folder(folder)
    assert not folder.exists()
    assert (open_folder(f"{bucket}/a b#1%/xy") / "kept.json").exists()
