"""A sample of test rows that both the trainer's model and the scorer score: one model, one score."""

from __future__ import annotations

from collections.abc import Sequence

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from star_ctr.conf.contracts.encoded_row import OTHER, Layout
from star_ctr.model.data.batch_order import DataFile
from star_ctr.model.data.reader import Rows, concat_rows, list_live_files, unpack_columns
from star_ctr.model.models.multi_domain import MultiDomainModel
from star_ctr.model.score_checks import check_scores
from star_ctr.model.training.job import TrainingJob


def score_sample(
    model: MultiDomainModel, job: TrainingJob, device: torch.device, rows_a_domain: int = 200
) -> dict[str, float]:
    """Score a few rows of each domain with the trainer's own model, by impression, for the parity check of the scorer.

    Uses test rows, or training rows if the job has no test rows (a refit). Raises `DataError` if a score is not finite.
    """
    files = list_live_files(job.split, job.versions["split"], job.ds, "test", job.layout)
    files = files or list_live_files(job.split, job.versions["split"], job.ds, "train", job.layout)
    if not files:
        return {}
    ids, rows = read_sample(files, job.layout, rows_a_domain)
    found = model.predict(*(torch.from_numpy(a).to(device) for a in (rows.ints, rows.floats, rows.domain)))
    scores = found.double().cpu().numpy()
    names = [OTHER, *job.layout.domains]
    check_scores(scores, [names[p] for p in rows.domain], f"{job.run_id}: the trainer's model")
    return dict(zip(ids, scores.tolist(), strict=True))


def read_sample(files: Sequence[DataFile], layout: Layout, rows_a_domain: int) -> tuple[list[str], Rows]:
    """Impression ids and packed rows of the first rows of each domain; at least one file."""
    ids: list[str] = []
    parts: list[Rows] = []
    for domain in sorted({f.domain for f in files}):
        keys, rows = read_encoded_rows(next(f for f in files if f.domain == domain), layout, rows_a_domain)
        ids += keys["impression_id"].to_pylist()
        parts.append(rows)
    return ids, concat_rows(parts)


def read_encoded_rows(file: DataFile, layout: Layout, limit: int | None = None) -> tuple[pa.Table, Rows]:
    """The (first) rows of a file of the split: impression_id, user_id, domain and label, and what the model reads."""
    with fsspec.open(file.url, "rb") as handle:
        table = pq.ParquetFile(handle).read(columns=["impression_id", "user_id", "label", "ints", "floats"])
    table = table.slice(0, limit)
    ints, floats = unpack_columns(table["ints"], table["floats"], layout)
    n = len(table)
    label = table["label"].to_numpy().astype(np.float32)
    rows = Rows(ints.copy(), floats.copy(), label, np.full(n, file.domain, dtype=np.int32))
    domain = pa.array([["other", *layout.domains][file.domain]] * n, pa.string())
    return table.select(["impression_id", "user_id", "label"]).append_column("domain", domain), rows
