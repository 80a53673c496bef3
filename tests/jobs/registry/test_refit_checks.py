"""Checks of a refit: a refit that fails a check is not served."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from deltalake import write_deltalake
from pyspark.sql import SparkSession
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from star_ctr.conf.contracts.catalog import WEIGHTS_FILE
from star_ctr.conf.load import load
from star_ctr.conf.settings.gate import GateSettings
from star_ctr.jobs.io.delta_rows import read_rows
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.registry.refit_checks import find_failures
from star_ctr.model.training import run
from star_ctr.model.training.job import TrainingJob
from tests.model.synthetic import LAYOUT, job, write_split

pytestmark = pytest.mark.spark
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("impression_id", "user_id", "day", "ds", "part", "domain")]
    + [
        ("label", pa.float32()),
        ("label_final", pa.bool_()),
        ("domain_id", pa.int32()),
        ("domain_number", pa.int32()),
        ("ints", pa.binary()),
        ("floats", pa.binary()),
    ]
)


@pytest.fixture
def store(tmp_path: Path, spark: SparkSession) -> WarehouseTables:
    return WarehouseTables(load("demo", [f"paths.warehouse={tmp_path}"]), spark)


@pytest.fixture
def refit(tmp_path: Path) -> TrainingJob:
    """Train a refit on two days, with a few hundred rows in three domains."""
    rows = read_rows(write_split(tmp_path))
    for number, row in enumerate(rows):
        row["day"] = LAYOUT.ds if number % 2 else "2026-01-01"
    data = pa.Table.from_pylist(rows, SCHEMA)
    write_deltalake(str(tmp_path / "refit_split"), data, partition_by=["ds", "part", "domain_number"])
    finished = job(str(tmp_path / "refit_split"), tmp_path / "models" / "test")
    run.train(finished)
    return finished


def change(refit: TrainingJob, modify: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = str(refit.path / WEIGHTS_FILE)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    modify(tensors)
    save_file(tensors, path, metadata=metadata)


def shift_bias(tensors: dict[str, torch.Tensor], value: float) -> None:
    """Shift the output biases of the network by `value`."""
    names = [n for n, t in tensors.items() if n.startswith("network") and "bias" in n and t.shape[-1] == 1]
    assert names, list(tensors)
    for name in names:
        tensors[name] += value


def test_a_broken_refit_is_not_served(store: WarehouseTables, refit: TrainingJob, tmp_path: Path) -> None:
    gate, weights = GateSettings(), (refit.path / WEIGHTS_FILE).read_bytes()
    assert find_failures(store, gate, refit) == []
    # PCOC on the training rows is close to 1, so use a band that excludes 1 to trigger the check.
    assert "on the day is outside [5.0, 6.0]" in find_failures(store, GateSettings(pcoc=(5.0, 6.0)), refit)[0]

    change(refit, lambda tensors: shift_bias(tensors, float("nan")))
    assert "non-finite weights in network" in find_failures(store, gate, refit)[0]

    (refit.path / WEIGHTS_FILE).write_bytes(weights)
    change(refit, lambda tensors: shift_bias(tensors, 2.0))
    assert "the scorer differs from the trainer's model by" in find_failures(store, gate, refit)[0]

    (refit.path / WEIGHTS_FILE).write_bytes(weights)
    path = refit.path / "result.json"
    record = json.loads(path.read_text())
    first = next(iter(record["sample_scores"]))
    path.write_text(json.dumps({**record, "sample_scores": {**record["sample_scores"], first: float("nan")}}))
    assert "1 of" in (found := find_failures(store, gate, refit)[0])
    assert "have no finite difference" in found
    path.write_text(json.dumps({**record, "sample_scores": {}}))
    assert "left no sample" in find_failures(store, gate, refit)[0]
