"""Groups of processes under torchrun: two train the model that one would, and what was killed goes on at any size."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from star_ctr.model.job import TrainingJob
from star_ctr.model.run import train
from star_ctr.model.train import launch, write_job
from tests.model.synthetic import record, same_model, when, without_dropout

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone(table: str, tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    """The training that one process makes, undisturbed."""
    j = without_dropout(table, tmp_path_factory.mktemp("alone"))
    train(j)
    return j


def group(j: TrainingJob, *options: str) -> subprocess.Popen[bytes]:
    """Torchrun on a job, in a process group of its own."""
    command = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "star_ctr.model.train", str(write_job(j))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment, start_new_session=True)


def workers(j: TrainingJob) -> list[int]:
    """The processes that train a job (not torchrun's agent), by their command lines."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(j.place / "job.json").encode() in words and b"torch.distributed.run" not in words:
            found.append(int(folder.name))
    return sorted(found)


def test_two_processes_train_the_model_that_one_would(table: str, tmp_path: Path, alone: TrainingJob) -> None:
    two = without_dropout(table, tmp_path, processes=2)
    launch(two)
    same_model(alone, two)
    assert record(two)["processes"] == 2


def test_sharded_tables_train_the_model_that_whole_ones_would(table: str, tmp_path: Path, alone: TrainingJob) -> None:
    two = without_dropout(table, tmp_path, processes=2, tables="sharded")
    launch(two)
    same_model(alone, two)


@pytest.mark.parametrize("tables", ["replicated", "sharded"])
@pytest.mark.parametrize("processes", [1, 3])
def test_two_killed_go_on_as_one_and_as_three(
    table: str, tmp_path: Path, alone: TrainingJob, processes: int, tables: str
) -> None:
    two = without_dropout(table, tmp_path, processes=2, tables=tables)
    process = group(two, "--standalone", "--nproc-per-node=2")
    when(process, two, 5, lambda: os.killpg(process.pid, signal.SIGKILL))
    process.wait()
    for worker in workers(two):  # torchrun gives its workers sessions of their own
        os.kill(worker, signal.SIGKILL)
    other = without_dropout(table, tmp_path, processes=processes, tables=tables)
    launch(other, must_resume=True)
    same_model(alone, other)
    assert record(other)["resumed"]


def test_a_lost_process_restarts_the_group_from_the_last_checkpoint(
    table: str, tmp_path: Path, alone: TrainingJob
) -> None:
    two = without_dropout(table, tmp_path, processes=2)
    process = group(two, "--standalone", "--nproc-per-node=2", "--max-restarts=2")
    when(process, two, 5, lambda: os.kill(workers(two)[-1], signal.SIGKILL))
    assert process.wait(timeout=300) == 0
    same_model(alone, two)
    assert record(two)["resumed"]


def test_two_nodes_train_the_model_that_one_process_would(table: str, tmp_path: Path, alone: TrainingJob) -> None:
    two = without_dropout(table, tmp_path, processes=2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = [
        group(
            two, "--nnodes=2", f"--node-rank={rank}", "--nproc-per-node=1", "--master-addr=127.0.0.1",
            f"--master-port={port}",
        )
        for rank in range(2)
    ]  # fmt: skip
    assert [node.wait(timeout=300) for node in nodes] == [0, 0]
    same_model(alone, two)
    assert record(two)["processes"] == 2
