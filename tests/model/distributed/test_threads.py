"""Threads of a training run: their number, which a resumed run keeps, and the sleep of idle threads."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from star_ctr.conf.settings.model import ModelSettings
from star_ctr.conf.settings.trainer import TrainerSettings
from star_ctr.model.distributed import threads
from star_ctr.model.train import launch, write_job
from star_ctr.model.training import trainer_state
from star_ctr.model.training.job import TrainingJob
from star_ctr.model.training.run import train
from star_ctr.model.training.trainer import Trainer
from tests.model.synthetic import job, record


def make_job(table: str, folder: Path, **trainer: object) -> TrainingJob:
    return job(table, folder, **{"threads": 0, "minutes": 1000.0, **trainer})


def set_cores(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    """Pretend that this process may run on `cores` cores."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "count_cores", lambda: cores)


LAYERS = {"demo": [128, 64], "kuairand": [256, 128, 64], "paper": ModelSettings().layers}


@pytest.mark.parametrize("layers", LAYERS.values(), ids=list(LAYERS))
def test_small_batches_use_one_thread_on_any_machine(layers: list[int]) -> None:
    assert {threads.compute_threads(128, layers, cores) for cores in (1, 2, 16, 256)} == {1}


def test_the_batches_of_the_paper_use_two_cores() -> None:
    assert threads.compute_threads(2000, LAYERS["paper"], cores=2) == 2
    assert threads.compute_threads(8000, LAYERS["demo"], cores=2) == 2


@given(st.integers(2, 100_000), st.lists(st.integers(1, 2048), min_size=1, max_size=8), st.integers(1, 256))
def test_threads_grow_with_the_batch_and_stay_within_the_cores(rows: int, layers: list[int], cores: int) -> None:
    found = threads.compute_threads(rows, layers, cores)
    assert 1 <= found <= cores
    assert found <= threads.compute_threads(2 * rows, layers, cores)
    assert found <= threads.compute_threads(rows, layers, 2 * cores)
    assert found <= threads.compute_threads(rows, [*layers, layers[-1]], cores)


def test_process_cores_respect_affinity_and_omp_num_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    code += "; from star_ctr.model.distributed.threads import count_process_cores; print(count_process_cores())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
    set_cores(monkeypatch, 8)
    assert threads.count_process_cores() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert threads.count_process_cores() == 2
    for limit, found in (("1", 1), ("64", 2), ("1,4", 1), ("", 2), ("many", 2), ("0", 1)):
        monkeypatch.setenv("OMP_NUM_THREADS", limit)
        assert threads.count_process_cores() == found, limit


def test_each_process_counts_its_own_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is either split over the processes, or each process gets a whole one."""
    set_cores(monkeypatch, 64)
    seen: list[int] = []
    monkeypatch.setattr(threads, "compute_threads", lambda rows, layers, cores: seen.append(rows) or 1)
    monkeypatch.setattr(threads, "get_rank_and_size", lambda: (0, 4))
    for parallel in ("rows", "batches"):
        threads.choose_threads(TrainerSettings.model_validate({"parallel": parallel}), ModelSettings())
    assert seen == [500, 2000]


def test_a_declared_number_is_used_and_recorded(table: str, tmp_path: Path) -> None:
    assert train(make_job(table, tmp_path / "three", threads=3))["threads"] == 3
    assert torch.get_num_threads() == 3
    assert train(make_job(table, tmp_path / "one"))["threads"] == 1
    assert torch.get_num_threads() == 1


def test_a_resumed_training_keeps_its_threads_on_any_machine(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "compute_threads", lambda rows, layers, cores: cores)
    set_cores(monkeypatch, 3)
    started = Trainer(make_job(table, tmp_path))
    started.train_step([next(iter(started._iter_batches()))])
    trainer_state.save(started)
    set_cores(monkeypatch, 2)
    for declared, expected in ((0, 3), (1, 1)):
        resumed = Trainer(make_job(table, tmp_path, threads=declared))
        assert trainer_state.resume(resumed, must=True)
        assert (resumed.threads, torch.get_num_threads()) == (expected, expected)


OPENMP_NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")


def count_sleeping(output: str) -> int:
    """Count the processes with the expected OpenMP settings, as printed by OMP_DISPLAY_ENV."""
    policies, spins = (re.findall(rf"{name} = '(.*)'", output) for name in OPENMP_NAMES[:2])
    return sum(p == "PASSIVE" and int(n) <= 10_000 for p, n in zip(policies, spins, strict=True))


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a new process in which OpenMP prints its settings."""
    kept = {k: v for k, v in os.environ.items() if k not in OPENMP_NAMES}
    return {**kept, "OMP_DISPLAY_ENV": "verbose", **more}


def test_idle_threads_of_a_launched_training_sleep(table: str, tmp_path: Path) -> None:
    j = make_job(table, tmp_path)
    command = [sys.executable, "-m", "star_ctr.model.train", str(write_job(j))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    assert count_sleeping(done.stderr) == 1
    assert record(j)["threads"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("module", ["jobs.score", "jobs.io.spark_launcher", "workflows.compare.run"])
def test_idle_threads_sleep_in_every_module_with_torch(module: str) -> None:
    code = f"import star_ctr.{module}, torch"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    assert count_sleeping(done.stderr) == 1


def test_a_wait_policy_of_the_user_is_kept() -> None:
    active = environment(OMP_WAIT_POLICY="active")
    code = "import star_ctr.model.training.trainer"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=active)
    assert "OMP_WAIT_POLICY = 'ACTIVE'" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["rows", "batches"])
def test_torchrun_processes_share_the_cores_and_idle_threads_sleep(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], parallel: str
) -> None:
    for name in OPENMP_NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_DISPLAY_ENV", "verbose")
    j = make_job(table, tmp_path, processes=2, parallel=parallel)
    launch(j)
    assert count_sleeping(capfd.readouterr().err) == 3, "the two workers and their agent"
    assert record(j)["threads"] == 1
