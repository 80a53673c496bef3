"""Splits of random rows for benchmarks of the trainer.

The sizes of the domains and the frequencies of ids follow Zipf's law. Each row has eight ids, twenty numbers, and two
sequences of length 50.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from star_ctr.conf.contracts.encoded_row import IdField, Layout, NumericField, NumericSource, SequenceField
from star_ctr.conf.settings.model import ModelSettings
from star_ctr.conf.settings.trainer import TrainerSettings
from star_ctr.features.encoding.row_encoder import pack_rows
from star_ctr.model.training.job import TrainingJob

FIELDS, NUMBERS, LENGTH = 8, 20, 50
ROWS_PER_FILE = 16_384
"""Maximum number of rows per file."""


def make_layout(vocabulary: int = 100_000, domains: int = 19) -> Layout:
    """Return a layout with eight ids, twenty numbers, and two sequences of fifty events with two ids each.

    Args:
        vocabulary: The number of rows of each embedding.
        domains: The number of domains.
    """
    fields = [IdField(name=f"f{i}", column=f"f{i}", embedding=f"f{i}") for i in range(FIELDS)]
    return Layout(
        ds="2026-01-02", domains=[f"d{p}" for p in range(1, domains + 1)],
        embeddings={f.name: vocabulary for f in fields}, categorical=fields, buckets=[],
        numeric=[NumericField(name=f"n{i}", source=NumericSource(column=f"n{i}")) for i in range(NUMBERS)],
        sequences=[SequenceField(name=name, length=LENGTH, sides=fields[:2]) for name in ("seen", "bought")],
    )  # fmt: skip


def make_job(
    folder: Path, rows: int, domains: int = 19, model: dict[str, Any] | None = None, **trainer: object
) -> TrainingJob:
    """Return a training job on a split of random rows. The first call writes the split.

    Args:
        folder: The folder for the split and the training run.
        rows: The approximate number of rows.
        domains: The number of domains.
        model: Settings of the model.
        trainer: Settings of the trainer by name, without their groups.
    """
    layout = make_layout(domains=domains)
    table = str(folder / f"split-{rows}-{domains}")
    if not DeltaTable.is_deltatable(table):
        share = 1 / np.arange(1, domains + 1)
        sizes = np.maximum(1, (rows * share / share.sum()).astype(int))
        for p, size in enumerate(sizes, start=1):
            for start in range(0, size, ROWS_PER_FILE):
                _write(table, layout, p, min(ROWS_PER_FILE, size - start), start)
    name = "-".join([f"{rows}-{domains}", *(f"{k}={v}" for k, v in sorted(trainer.items()))])
    return TrainingJob(
        run_id=name, ds=layout.ds, split=table, versions={"split": DeltaTable(table).version()},
        folder=str(folder / name), code="", layout=layout, model=ModelSettings.model_validate(model or {}),
        trainer=TrainerSettings.from_names(**{"device": "cpu", "tensorboard": False, **trainer}), settings={},
    )  # fmt: skip


def _write(table: str, layout: Layout, p: int, n: int, start: int) -> None:
    """Append `n` rows of domain number `p` as one file; `start` is the number of rows of the domain before it."""
    rng = np.random.default_rng([p, start])
    # Zipf's law: the k-th id is 1 / k times as frequent as the first one.
    ints = np.exp(rng.uniform(np.log(2), np.log(layout.embeddings["f0"]), (n, layout.int_count))).astype(np.int32)
    for sequence, offset in layout.iter_sequence_offsets():
        length = rng.integers(0, LENGTH + 1, n)
        ints[:, offset] = length
        for _, first in sequence.iter_offsets(offset):
            ints[:, first : first + LENGTH] *= np.arange(LENGTH) < length[:, None]
    floats = rng.normal(size=(n, NUMBERS)).astype(np.float32)
    label = (rng.random(n) < 1 / (1 + np.exp(3 - floats[:, 0]))).astype(np.float32)
    columns = {
        "impression_id": [f"{p:03d}-{i:09d}" for i in range(start, start + n)], "user_id": ["u"] * n,
        "day": ["2026-01-01"] * n, "label": label, "label_final": [True] * n, "domain_id": np.full(n, p, dtype=np.int32),
        "ints": pack_rows(ints), "floats": pack_rows(floats), "ds": [layout.ds] * n, "part": ["train"] * n,
        "domain": [layout.domains[p - 1]] * n, "domain_number": np.full(n, p, dtype=np.int32),
    }  # fmt: skip
    write_deltalake(table, pa.table(columns), mode="append", partition_by=["ds", "part", "domain_number"])
