"""Training with several processes: the same model as with one process, and resuming with any number of processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from star_ctr.model.embeddings.row_adam import RowAdam
from star_ctr.model.export import export
from star_ctr.model.layers.segments import find_segments
from star_ctr.model.train import launch, write_job
from star_ctr.model.training import checkpoint
from star_ctr.model.training.job import TrainingJob
from star_ctr.model.training.run import train
from star_ctr.model.training.trainer import Trainer
from tests.model.processes import Processes
from tests.model.synthetic import (
    EPOCHS,
    ROWS,
    TOLERANCE,
    WEIGHTED,
    act_at_step,
    assert_same_model,
    assert_same_weights,
    record,
    without_dropout,
    write_split,
)

pytestmark = pytest.mark.slow

NEW_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""Environment in which torchrun creates a new store when it restarts a group. By default, it shares the store of the
agent, which still lists the addresses of dead processes, and new processes connect to them (pytorch/pytorch#135712)."""


def group(j: TrainingJob, *options: str) -> subprocess.Popen[bytes]:
    """Start torchrun on a job, in a separate process group."""
    command = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "star_ctr.model.train", str(write_job(j))]
    environment = {**os.environ, **NEW_STORE, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment, start_new_session=True)


def workers(j: TrainingJob) -> list[int]:
    """Find the processes that train a job, without the agent of torchrun, by their command lines."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        agents = (b"torch.distributed.run", b"star_ctr.model.distributed.torchrun_agent")
        if str(j.path / "job.json").encode() in words and not any(agent in words for agent in agents):
            found.append(int(folder.name))
    return sorted(found)


def kill(process: subprocess.Popen[bytes], j: TrainingJob) -> None:
    """Kill a group, including the agent."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for worker in workers(j):  # torchrun starts its workers in separate sessions
        with contextlib.suppress(ProcessLookupError):  # they exit with the agent
            os.kill(worker, signal.SIGKILL)


def test_two_processes_train_the_same_model_as_one(table: str, tmp_path: Path, alone: TrainingJob) -> None:
    two = without_dropout(table, tmp_path, processes=2)
    launch(two)
    assert_same_model(alone, two)
    assert (record(two)["processes"], record(two)["tables"]) == (2, "one copy for all processes")


def test_training_waits_for_processes_that_update_or_save_late(table: str, tmp_path: Path) -> None:
    one, two = (without_dropout(table, tmp_path / str(n), processes=n, ema_decay=0.99) for n in (1, 2))
    train(one)
    torch.multiprocessing.start_processes(_train_late, (two, str(tmp_path / "store")), nprocs=2, start_method="spawn")
    assert_same_model(one, two)
    # The last checkpoint was saved before the EMA replaced the weights.
    tensors_of_two, tensors_of_one = (_load_last_checkpoint(j) for j in (two, one))
    tables = [name for name in tensors_of_one if name.startswith("model/inputs.tables.")]
    assert tables
    for name in tables:
        torch.testing.assert_close(tensors_of_two[name], tensors_of_one[name], atol=TOLERANCE, rtol=0)
        lag = name.replace("model/", "average/") + "/lag"
        torch.testing.assert_close(tensors_of_two[lag], tensors_of_one[lag], atol=TOLERANCE, rtol=0)
        assert tensors_of_one[lag].abs().max() > 5 * TOLERANCE, "the EMA must differ from the weights"


def _load_last_checkpoint(j: TrainingJob) -> dict[str, torch.Tensor]:
    folder = j.path / "checkpoint"
    progress = checkpoint.find_latest(folder)
    assert progress is not None
    return checkpoint.load(folder, progress)


def _train_late(rank: int, j: TrainingJob, store: str) -> None:
    os.environ["LOCAL_WORLD_SIZE"] = "2"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    step = RowAdam.step

    def step_late(self: RowAdam, *_: Any) -> None:
        time.sleep(0.05 * rank)
        step(self)

    save = checkpoint.save

    def save_late(*arguments: Any) -> None:
        time.sleep(0.5)
        save(*arguments)

    RowAdam.step = step_late  # type: ignore[method-assign]
    checkpoint.save = save_late
    assert train(j)["tables"] == "one copy for all processes"
    dist.destroy_process_group()


@pytest.mark.parametrize("model", [{"name": "base", "norm": "bn"}, {"name": "mulann", "norm": "bn"}, {"norm": "ln"}])
def test_two_processes_train_the_same_model_as_one_on_mixed_batches(
    table: str, tmp_path: Path, pair: Processes, model: dict[str, str]
) -> None:
    one, two = (
        (j := without_dropout(table, tmp_path / str(n), processes=n, batches="mixed")).model_copy(
            update={"model": j.model.model_copy(update=model)}
        )
        for n in (1, 2)
    )
    train(one)
    pair.train(two)
    assert_same_model(one, two)


@pytest.mark.parametrize("batches", ["single_domain", "mixed"])
def test_two_processes_train_the_same_model_as_one_on_weighted_rows(
    tmp_path: Path, pair: Processes, batches: str
) -> None:
    """The rows that a process takes from a batch have another total weight than those of the other process."""

    def weigh(label: np.ndarray) -> np.ndarray:
        return np.random.default_rng(len(label)).gamma(0.3, size=len(label)) + 1e-3

    table = write_split(tmp_path, weigh=weigh)
    model = {"norm": "bn"} if batches == "mixed" else {}
    one, two = (
        (j := without_dropout(table, tmp_path / str(n), processes=n, batches=batches)).model_copy(
            update={"layout": WEIGHTED, "model": j.model.model_copy(update=model)}
        )
        for n in (1, 2)
    )
    train(one)
    pair.train(two)
    assert_same_model(one, two)
    for key in ("mean_weight", "baseline_loss"):
        assert record(one)[key] == pytest.approx(record(two)[key], abs=1e-9)
    curves = (np.array(record(j)["curve"]) for j in (one, two))
    np.testing.assert_allclose(*curves, atol=2e-4)


def test_sharded_tables_train_the_same_model_as_replicated_tables(
    table: str, tmp_path: Path, alone: TrainingJob, pair: Processes
) -> None:
    two = without_dropout(table, tmp_path, processes=2, tables="sharded")
    pair.train(two)
    assert_same_model(alone, two)
    assert record(two)["tables"] == "sharded"


@pytest.mark.parametrize("tables", ["replicated", "sharded"])
@pytest.mark.parametrize("processes", [1, 3])
def test_two_killed_processes_resume_as_one_and_as_three(
    table: str, tmp_path: Path, alone: TrainingJob, three: Processes, processes: int, tables: str
) -> None:
    two = without_dropout(table, tmp_path, processes=2, tables=tables)
    process = group(two, "--standalone", "--nproc-per-node=2")
    act_at_step(process, two, 5, lambda: kill(process, two))
    other = without_dropout(table, tmp_path, processes=processes, tables=tables)
    (train if processes == 1 else three.train)(other, must_resume=True)
    assert_same_model(alone, other)
    assert record(other)["resumed"]


def test_a_lost_process_restarts_the_group_from_the_last_checkpoint(
    table: str, tmp_path: Path, alone: TrainingJob
) -> None:
    two = without_dropout(table, tmp_path, processes=2)
    process = group(two, "--standalone", "--nproc-per-node=2", "--max-restarts=2")
    act_at_step(process, two, 5, lambda: os.kill(workers(two)[-1], signal.SIGKILL))
    assert process.wait(timeout=300) == 0
    assert_same_model(alone, two)
    assert record(two)["resumed"]


def launch_on_two_nodes(j: TrainingJob) -> None:
    """Train under two instances of torchrun with one process each, as on two machines."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = [
        group(
            j, "--nnodes=2", f"--node-rank={rank}", "--nproc-per-node=1", "--master-addr=127.0.0.1",
            f"--master-port={port}",
        )
        for rank in range(2)
    ]  # fmt: skip
    assert [node.wait(timeout=300) for node in nodes] == [0, 0]
    assert (record(j)["processes"], record(j)["tables"]) == (2, "a copy in each process")


def test_two_nodes_train_the_same_model_as_one_process(table: str, tmp_path: Path, alone: TrainingJob) -> None:
    two = without_dropout(table, tmp_path, processes=2)
    launch_on_two_nodes(two)
    assert_same_model(alone, two)


def test_two_nodes_with_one_batch_each_train_the_same_model_as_two_processes_on_one_node(
    table: str, tmp_path: Path, pair: Processes
) -> None:
    nodes, one = (without_dropout(table, tmp_path / n, processes=2, parallel="batches") for n in ("nodes", "one"))
    launch_on_two_nodes(nodes)
    pair.train(one)
    assert_same_weights(one, nodes)


@pytest.mark.parametrize("tables", ["replicated", "sharded"])
def test_parallel_batches_train_the_same_model_as_summed_gradients(
    table: str, tmp_path: Path, pair: Processes, tables: str
) -> None:
    """Compare two processes with one batch each with one process that adds the gradients of two batches."""
    # Do not recompute normalization statistics at the end, so that the running statistics are compared, too.
    settings: dict[str, Any] = {"parallel": "batches", "epochs": 3, "ema_decay": 0.5, "norm_statistics_rows": 0}
    two = without_dropout(table, tmp_path / "two", processes=2, tables=tables, **settings)
    pair.train(two)
    one = Trainer(without_dropout(table, tmp_path / "one", **settings))
    batches = list(one._iter_batches())
    for step_batches in (batches[k : k + 2] for k in range(0, len(batches), 2)):
        one.model.train()
        one.optimizers.zero_grad()
        for b in step_batches:
            logits = one.model(
                *(torch.from_numpy(a) for a in (b.rows.ints, b.rows.floats)), find_segments(b.rows.domain)
            )
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                logits, torch.from_numpy(b.rows.label), reduction="sum"
            )
            (loss / sum(len(other.rows) for other in step_batches)).backward()
        one.optimizers.step(one.step)
        one.ema.update(one.optimizers.sparse.changes)
        one.step += len(step_batches)
    assert one.steps % 2 == 1, "in the last step, the second process must have no batch"
    one.finish()
    export(one.model, one.job.model, one.job.layout, one.job.path)
    assert_same_weights(one.job, two)
    assert record(two)["rows"] == {d: 3 * n for d, n in ROWS.items()}


@pytest.mark.parametrize("processes", [1, 3])
def test_parallel_batches_lose_no_row_with_another_number_of_processes(
    table: str, tmp_path: Path, three: Processes, processes: int
) -> None:
    two = without_dropout(table, tmp_path, processes=2, parallel="batches")
    process = group(two, "--standalone", "--nproc-per-node=2")
    act_at_step(process, two, 5, lambda: kill(process, two))
    other = without_dropout(table, tmp_path, processes=processes, parallel="batches")
    (train if processes == 1 else three.train)(other, must_resume=True)
    assert record(other)["resumed"]
    assert record(other)["rows"] == {d: EPOCHS * n for d, n in ROWS.items()}
    assert record(other)["curve"][-1][1] < record(other)["curve"][0][1]
