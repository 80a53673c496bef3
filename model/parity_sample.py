"""The parity sample: test rows that are scored by the trainer's model and by the scorer, whose scores must agree."""

from __future__ import annotations

from collections.abc import Sequence

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.model.data.batch_order import DataFile
from star_ctr.model.data.reader import Rows, concat_rows, list_live_files, unpack_columns
from star_ctr.model.models.multi_domain import MultiDomainModel
from star_ctr.model.score_checks import check_score_array
from star_ctr.model.training.job import TrainingJob


def score_sample(
    model: MultiDomainModel, job: TrainingJob, device: torch.device, rows_per_domain: int = 200
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Score the parity sample of a job with the trainer's model.

    The sample consists of test rows, or of training rows if the job has no test rows (a refit).

    Args:
        model: The trainer's model, in evaluation mode.
        job: The training job.
        device: The device of the model.
        rows_per_domain: The maximum number of rows per domain.

    Returns:
        The scores by impression id, empty if the job has no rows; and the same for each further outcome, by name.

    Raises:
        DataError: A score is not in [0, 1].
    """
    files = list_live_files(job.split, job.versions["split"], job.test_partitions, job.layout)
    files = files or list_live_files(job.split, job.versions["split"], job.train_partitions, job.layout)
    if not files:
        return {}, {}
    ids, rows = read_sample(files, job.layout, rows_per_domain)
    tensors = (torch.from_numpy(a).to(device) for a in (rows.ints, rows.floats, rows.domain))
    predicted, outcomes = model.predict_all(*tensors)
    columns = [predicted] if outcomes is None else [predicted, *outcomes.T]
    names, found = job.layout.domain_index.names, []
    for column in columns:
        scores = column.double().cpu().numpy()
        check_score_array(scores, [names[p] for p in rows.domain], f"{job.run_id}: the trainer's model")
        found.append(dict(zip(ids, scores.tolist(), strict=True)))
    return found[0], dict(zip(job.layout.outcomes, found[1:], strict=True)) if outcomes is not None else {}


_KEYS = ["impression_id", "user_id", "label", "label_final"]


def read_sample(files: Sequence[DataFile], layout: Layout, rows_per_domain: int) -> tuple[list[str], Rows]:
    """Read the first rows of the first file of each domain.

    Args:
        files: Files of the split; at least one.
        layout: The layout of the encoded rows.
        rows_per_domain: The maximum number of rows per domain.

    Returns:
        The impression ids, and the encoded rows in the same order.
    """
    ids: list[str] = []
    parts: list[Rows] = []
    for domain in sorted({f.domain for f in files}):
        keys, rows = read_encoded_rows(next(f for f in files if f.domain == domain), layout, rows_per_domain)
        ids += keys["impression_id"].to_pylist()
        parts.append(rows)
    return ids, concat_rows(parts)


def read_encoded_rows(file: DataFile, layout: Layout, limit: int | None = None) -> tuple[pa.Table, Rows]:
    """Read rows of a file of the split.

    Args:
        file: The file.
        layout: The layout of the encoded rows.
        limit: The number of rows to read from the start of the file; all rows by default.

    Returns:
        A table with the columns `impression_id`, `user_id`, `label`, `label_final` and `domain`, and the encoded rows.
    """
    with fsspec.open(file.url, "rb") as handle:
        table = pq.ParquetFile(handle).read(columns=[*_KEYS, "ints", "floats"])
    table = table.slice(0, limit)
    ints, floats = unpack_columns(table["ints"], table["floats"], layout)
    n = len(table)
    label = table["label"].to_numpy().astype(np.float32)
    rows = Rows(ints.copy(), floats.copy(), label, np.full(n, file.domain, dtype=np.int32))
    domain = pa.array([layout.domain_index.get_name(file.domain)] * n, pa.string())
    return table.select(_KEYS).append_column("domain", domain), rows
