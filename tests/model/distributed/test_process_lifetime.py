"""Processes of a training run leave no orphans when one is killed, and listen on loopback only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from star_ctr.model.train import write_job
from star_ctr.model.training import checkpoint
from star_ctr.model.training.job import TrainingJob
from tests.model.synthetic import act_at_step, assert_same_model, record, without_dropout

pytestmark = pytest.mark.slow

LAUNCH = """
import sys
from pathlib import Path
from star_ctr.conf.errors import UserError
from star_ctr.model.training.job import TrainingJob
from star_ctr.model.train import launch
try:
    launch(TrainingJob.model_validate_json(Path(sys.argv[1]).read_text()))
except UserError as error:
    raise SystemExit(f"stopped: {error}")
"""


def list_processes(j: TrainingJob) -> dict[int, str]:
    """Return the processes of a job by id, each with its kind: launcher, agent or worker."""
    kinds = {"-c": "launcher", "star_ctr.model.distributed.torchrun_agent": "agent", "star_ctr.model.train": "worker"}
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if str(j.path / "job.json") in words:
            found[int(folder.name)] = next(kind for word, kind in kinds.items() if word in words)
    return found


def wait_for_exit(j: TrainingJob, seconds: float = 5.0) -> dict[int, str]:
    """Return the processes of a job that are still running after some seconds."""
    until = time.monotonic() + seconds
    while (found := list_processes(j)) and time.monotonic() < until:
        time.sleep(0.05)
    return found


def find_listen_addresses(pids: list[int]) -> set[str]:
    """Return the addresses, in hexadecimal, that the processes listen on."""
    sockets = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            target = str(descriptor.readlink())
            sockets |= {target[8:-1]} if target.startswith("socket:[") else set()
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in sockets:
                found.add(words[1].partition(":")[0])
    return found


@pytest.fixture
def group(table: str, tmp_path: Path) -> Iterator[tuple[TrainingJob, subprocess.Popen[str]]]:
    """Launch a training run with two processes from a separate process."""
    two = without_dropout(table, tmp_path / "two", processes=2, epochs=20)
    command = [sys.executable, "-c", LAUNCH, str(write_job(two))]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    yield two, process
    for pid in list_processes(two):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("kind", ["launcher", "agent"])
def test_a_killed_parent_leaves_no_orphans(group: tuple[TrainingJob, subprocess.Popen[bytes]], kind: str) -> None:
    two, process = group
    addresses: set[str] = set()

    def kill() -> None:
        found = list_processes(two)
        addresses.update(find_listen_addresses(list(found)))
        assert sorted(found.values()) == ["agent", "launcher", "worker", "worker"]
        os.kill(next(pid for pid, k in found.items() if k == kind), signal.SIGKILL)

    act_at_step(process, two, 5, kill)
    process.wait(timeout=30)
    assert wait_for_exit(two) == {}
    loopback = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
    assert addresses, "the processes are connected"
    assert addresses <= loopback


def test_sigterm_saves_a_checkpoint_and_leaves_no_orphans(group: tuple[TrainingJob, subprocess.Popen[str]]) -> None:
    two, process = group
    act_at_step(process, two, 5, process.terminate)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "stopped: test: stopped by SIGTERM after saving a checkpoint at step" in stderr
    assert "Traceback" not in stderr, stderr
    assert wait_for_exit(two) == {}
    progress = checkpoint.find_latest(two.path / "checkpoint")
    assert progress is not None
    assert progress["step"] >= 5
    assert not (two.path / "result.json").exists()


def test_a_killed_worker_is_replaced(table: str, tmp_path: Path, alone: TrainingJob) -> None:
    two = without_dropout(table, tmp_path / "two", processes=2)
    process = subprocess.Popen([sys.executable, "-c", LAUNCH, str(write_job(two))])

    def kill() -> None:
        os.kill(next(pid for pid, kind in list_processes(two).items() if kind == "worker"), signal.SIGKILL)

    act_at_step(process, two, 5, kill)
    assert process.wait(timeout=300) == 0
    assert wait_for_exit(two) == {}
    assert_same_model(alone, two)
    assert record(two)["resumed"]
