"""A small split without Spark: encoded rows of three domains in a Delta table, and small jobs that train on it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import write_deltalake
from safetensors.numpy import load_file

from star_ctr.conf.contracts.encoded_row import IdField, Layout, NumericField, NumericSource, SequenceField
from star_ctr.conf.settings.model import ModelSettings
from star_ctr.conf.settings.trainer import TrainerSettings
from star_ctr.features.encoding.row_encoder import pack_rows
from star_ctr.model.training.checkpoint import find_latest
from star_ctr.model.training.job import TrainingJob

LAYOUT = Layout(
    ds="2026-01-02",
    domains=["a", "b", "c"],
    embeddings={"user": 50, "item": 30},
    categorical=[
        IdField(name="user", column="u", embedding="user"),
        IdField(name="item", column="i", embedding="item"),
    ],
    buckets=[],
    numeric=[NumericField(name="x", source=NumericSource(column="x"))],
    sequences=[SequenceField(name="seen", length=4, sides=[IdField(name="item", column="s", embedding="item")])],
)
WEIGHTED = LAYOUT.model_copy(update={"has_weights": True})
"""The layout of rows with weights."""
ALL = ("star", "base", "shared_bottom", "mmoe", "cross_stitch", "ple", "pepnet")
"""Models that support both single-domain and mixed batches."""
ROWS = {"a": 700, "b": 150, "c": 1}
TOLERANCE = 2e-4
"""Tolerance for weights after 60 steps of Adam, if float32 sums are computed in another order."""
EPOCHS = 4


def write_split(
    folder: Path,
    rows: dict[str, int] | None = None,
    files_a_domain: int = 3,
    part: str = "train",
    layout: Layout = LAYOUT,
    weigh: Callable[[np.ndarray], np.ndarray] | None = None,
    draw_outcomes: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> str:
    """Write or append rows of a part, and return the path of the table.

    `weigh` computes weights from labels. `draw_outcomes` draws further outcomes, (n, K), from labels and numbers.
    """
    users, items = layout.embeddings["user"], layout.embeddings["item"]
    table = str(folder / "split")
    rng = np.random.default_rng(len(part))
    for domain, n in (rows or ROWS).items():
        for k, size in enumerate(np.array_split(np.arange(n), min(files_a_domain, n))):
            m = len(size)
            lengths = rng.integers(0, 5, m)
            seen = rng.integers(2, items, (m, 4)) * (np.arange(4) < lengths[:, None])
            ints = np.column_stack([rng.integers(0, users, m), rng.integers(0, items, m), lengths, seen]).astype(
                np.int32
            )
            floats = rng.normal(size=(m, 1)).astype(np.float32)
            p = 1 / (1 + np.exp(-(floats[:, 0] + 0.3 * (ints[:, 1] % 3) - 1)))
            data = pa.table(
                {
                    "impression_id": [f"{part}-{domain}-{k}-{i:04d}" for i in range(m)],
                    "user_id": [f"u{u}" for u in ints[:, 0]],
                    "day": ["2026-01-01"] * m,
                    "label": pa.array((rng.random(m) < p).astype(np.float32)),
                    "label_final": [True] * m,
                    "domain_id": pa.array([layout.domain_index.get_number(domain)] * m, pa.int32()),
                    "ints": pack_rows(ints),
                    "floats": pack_rows(floats),
                    "ds": [layout.ds] * m,
                    "part": [part] * m,
                    "domain": [domain] * m,
                    "domain_number": pa.array([layout.domain_index.get_number(domain)] * m, pa.int32()),
                }
            )
            if weigh:
                data = data.append_column("weight", pa.array(weigh(data["label"].to_numpy()), pa.float64()))
            if draw_outcomes:
                outcomes = draw_outcomes(data["label"].to_numpy(), floats[:, 0]).astype(np.float32)
                data = data.append_column("outcomes", pack_rows(outcomes))
            write_deltalake(table, data, mode="append", partition_by=["ds", "part", "domain_number"])
    return table


def version_of(table: str) -> int:
    from deltalake import DeltaTable

    return int(DeltaTable(table).version())


def job(table: str, folder: Path, **trainer: object) -> TrainingJob:
    """Create a small job on a table of `write_split`."""
    settings = {"batch_size": 64, "threads": 1, "device": "cpu", "window_rows": 200, "ema_decay": 0.9, **trainer}
    return TrainingJob(
        run_id="test",
        ds=LAYOUT.ds,
        split=table,
        versions={"split": version_of(table)},
        folder=str(folder),
        code="",
        layout=LAYOUT,
        model=ModelSettings(layers=[16, 8], dim=4, dropout=0.1),
        trainer=TrainerSettings.from_names(**settings),
        settings={},
    )


def with_vocabularies(j: TrainingJob, folder: Path) -> TrainingJob:
    """Write the vocabularies of a job's embeddings to a table below `folder`, and return the job with them."""
    values = [(name, f"v{k}", k + 2) for name, size in LAYOUT.embeddings.items() for k in range(size - 2)]
    columns = [pa.array(c) for c in zip(*values, strict=True)]
    rows = pa.table([*columns, pa.array([LAYOUT.ds] * len(values))], names=["embedding", "value", "id", "ds"])
    table = str(folder / "vocabularies")
    write_deltalake(table, rows, partition_by=["ds"])
    versions = {**j.versions, "vocabularies": version_of(table)}
    return j.model_copy(update={"vocabularies": table, "versions": versions, "settings": {"history": {}, "model": {}}})


def without_dropout(table: str, folder: Path, **trainer: object) -> TrainingJob:
    """Create a job without dropout, so that its result does not depend on the number of processes."""
    j = job(table, folder, **{"epochs": EPOCHS, "minutes": 1e-6, **trainer})
    return j.model_copy(update={"model": j.model.model_copy(update={"dropout": 0.0})})


def assert_same_model(one: TrainingJob, other: TrainingJob) -> None:
    """Assert that all weights are equal within TOLERANCE, and that each row was trained on once per epoch."""
    assert_same_weights(one, other)
    assert record(other)["rows"] == {d: EPOCHS * n for d, n in ROWS.items()}


def assert_same_weights(one: TrainingJob, other: TrainingJob) -> None:
    """Assert that all weights of both exported models are equal within TOLERANCE."""
    a, b = (load_file(j.path / "model.safetensors") for j in (one, other))
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=TOLERANCE, err_msg=name)


def record(j: TrainingJob) -> dict[str, Any]:
    """Return the results of a finished training run."""
    return dict(json.loads((j.path / "result.json").read_text()))


def act_at_step(process: subprocess.Popen[bytes], j: TrainingJob, step: int, act: Callable[[], None]) -> None:
    """Call `act` as soon as the job has a checkpoint of a step or of a later one."""
    folder = j.path / "checkpoint"
    deadline = time.monotonic() + 180
    while process.poll() is None and time.monotonic() < deadline:
        if (found := find_latest(folder)) and found["step"] >= step:
            act()
            return
        time.sleep(0.005)
    raise AssertionError("the training run ended or timed out before it reached the step")
