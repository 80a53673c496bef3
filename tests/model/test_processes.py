"""Groups of processes under torchrun: two train the model that one would, and what was killed goes on at any size."""

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
from tests.model.synthetic import EPOCHS, ROWS, TOLERANCE, record, same_model, same_weights, when, without_dropout

pytestmark = pytest.mark.slow

OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""Environment in which torchrun restarts a group with a new store: in the agent's, which it shares by default, the
addresses of dead processes are still listed, and the new processes call those (pytorch/pytorch#135712)."""


def group(j: TrainingJob, *options: str) -> subprocess.Popen[bytes]:
    """Torchrun on a job, in a process group of its own."""
    command = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "star_ctr.model.train", str(write_job(j))]
    environment = {**os.environ, **OWN_STORE, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment, start_new_session=True)


def workers(j: TrainingJob) -> list[int]:
    """The processes that train a job (not torchrun's agent), by their command lines."""
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
    """Kill a group, agent and all."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for worker in workers(j):  # torchrun gives its workers sessions of their own
        with contextlib.suppress(ProcessLookupError):  # they exit with the agent
            os.kill(worker, signal.SIGKILL)


def test_two_processes_train_the_model_that_one_would(table: str, tmp_path: Path, alone: TrainingJob) -> None:
    two = without_dropout(table, tmp_path, processes=2)
    launch(two)
    same_model(alone, two)
    assert (record(two)["processes"], record(two)["tables"]) == (2, "one copy for all processes")


def test_processes_that_update_or_save_late_are_waited_for(table: str, tmp_path: Path) -> None:
    one, two = (without_dropout(table, tmp_path / str(n), processes=n, ema_decay=0.99) for n in (1, 2))
    train(one)
    torch.multiprocessing.start_processes(_late, (two, str(tmp_path / "store")), nprocs=2, start_method="spawn")
    same_model(one, two)
    # The last checkpoint is of before the averaged weights take their place.
    ours, theirs = (_last_saved(j) for j in (two, one))
    tables = [name for name in theirs if name.startswith("model/inputs.tables.")]
    assert tables
    for name in tables:
        torch.testing.assert_close(ours[name], theirs[name], atol=TOLERANCE, rtol=0)
        lag = name.replace("model/", "average/") + "/lag"
        torch.testing.assert_close(ours[lag], theirs[lag], atol=TOLERANCE, rtol=0)
        assert theirs[lag].abs().max() > 5 * TOLERANCE, "the averages must differ from the weights"


def _last_saved(j: TrainingJob) -> dict[str, torch.Tensor]:
    folder = j.path / "checkpoint"
    place = checkpoint.find_latest(folder)
    assert place is not None
    return checkpoint.load(folder, place)


def _late(rank: int, j: TrainingJob, store: str) -> None:
    os.environ["LOCAL_WORLD_SIZE"] = "2"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    step = RowAdam.step

    def late(self: RowAdam, *_: Any) -> None:
        time.sleep(0.05 * rank)
        step(self)

    save = checkpoint.save

    def save_late(*arguments: Any) -> None:
        time.sleep(0.5)
        save(*arguments)

    RowAdam.step = late  # type: ignore[method-assign]
    checkpoint.save = save_late
    assert train(j)["tables"] == "one copy for all processes"
    dist.destroy_process_group()


@pytest.mark.parametrize("model", [{"name": "base", "norm": "bn"}, {"name": "mulann", "norm": "bn"}, {"norm": "ln"}])
def test_two_processes_train_the_model_that_one_would_on_mixed_batches(
    table: str, tmp_path: Path, model: dict[str, str]
) -> None:
    one, two = (
        (j := without_dropout(table, tmp_path / str(n), processes=n, batches="mixed")).model_copy(
            update={"model": j.model.model_copy(update=model)}
        )
        for n in (1, 2)
    )
    train(one)
    launch(two)
    same_model(one, two)


def test_sharded_tables_train_the_model_that_whole_ones_would(table: str, tmp_path: Path, alone: TrainingJob) -> None:
    two = without_dropout(table, tmp_path, processes=2, tables="sharded")
    launch(two)
    same_model(alone, two)
    assert record(two)["tables"] == "sharded"


@pytest.mark.parametrize("tables", ["replicated", "sharded"])
@pytest.mark.parametrize("processes", [1, 3])
def test_two_killed_go_on_as_one_and_as_three(
    table: str, tmp_path: Path, alone: TrainingJob, processes: int, tables: str
) -> None:
    two = without_dropout(table, tmp_path, processes=2, tables=tables)
    process = group(two, "--standalone", "--nproc-per-node=2")
    when(process, two, 5, lambda: kill(process, two))
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


def launch_on_two_nodes(j: TrainingJob) -> None:
    """Train with a process each under two torchruns, which is as two machines do."""
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


def test_two_nodes_train_the_model_that_one_process_would(table: str, tmp_path: Path, alone: TrainingJob) -> None:
    two = without_dropout(table, tmp_path, processes=2)
    launch_on_two_nodes(two)
    same_model(alone, two)


def test_two_nodes_with_a_batch_each_train_as_two_processes_of_one(table: str, tmp_path: Path) -> None:
    nodes, one = (without_dropout(table, tmp_path / n, processes=2, parallel="batches") for n in ("nodes", "one"))
    launch_on_two_nodes(nodes)
    launch(one)
    same_weights(one, nodes)


@pytest.mark.parametrize("tables", ["replicated", "sharded"])
def test_batches_of_their_own_train_as_their_rows_together(table: str, tmp_path: Path, tables: str) -> None:
    """Two processes with a batch each: the steps of one process that adds up the gradients of two batches."""
    # Without moments taken anew at the end, those that moved in training are compared too.
    settings: dict[str, Any] = {"parallel": "batches", "epochs": 3, "ema_decay": 0.5, "norm_statistics_rows": 0}
    two = without_dropout(table, tmp_path / "two", processes=2, tables=tables, **settings)
    launch(two)
    one = Trainer(without_dropout(table, tmp_path / "one", **settings))
    batches = list(one._iter_batches())
    for pair in (batches[k : k + 2] for k in range(0, len(batches), 2)):
        one.model.train()
        one.optimizers.zero_grad()
        for b in pair:
            logits = one.model(
                *(torch.from_numpy(a) for a in (b.rows.ints, b.rows.floats)), find_segments(b.rows.domain)
            )
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                logits, torch.from_numpy(b.rows.label), reduction="sum"
            )
            (loss / sum(len(other.rows) for other in pair)).backward()
        one.optimizers.step(one.step)
        one.ema.update(one.optimizers.sparse.changes)
        one.step += len(pair)
    assert one.steps % 2 == 1, "the last step is to have no batch for the second process"
    one.finish()
    export(one.model, one.job.model, one.job.layout, one.job.path)
    same_weights(one.job, two)
    assert record(two)["rows"] == {d: 3 * n for d, n in ROWS.items()}


@pytest.mark.parametrize("processes", [1, 3])
def test_batches_of_their_own_lose_no_row_at_another_size(table: str, tmp_path: Path, processes: int) -> None:
    two = without_dropout(table, tmp_path, processes=2, parallel="batches")
    process = group(two, "--standalone", "--nproc-per-node=2")
    when(process, two, 5, lambda: kill(process, two))
    other = without_dropout(table, tmp_path, processes=processes, parallel="batches")
    launch(other, must_resume=True)
    assert record(other)["resumed"]
    assert record(other)["rows"] == {d: EPOCHS * n for d, n in ROWS.items()}
    assert record(other)["curve"][-1][1] < record(other)["curve"][0][1]
