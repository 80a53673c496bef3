"""A sample of test rows that both the trainer's model and the scorer score: one model, one score."""

from __future__ import annotations

from collections.abc import Sequence

import fsspec
import numpy as np
import pyarrow.parquet as pq
import torch

from star_ctr.conf.layout import Layout
from star_ctr.model.job import TrainingJob
from star_ctr.model.multi_domain import MultiDomainModel
from star_ctr.model.plan import DataFile
from star_ctr.model.stream import Rows, live_files


def probe_scores(
    model: MultiDomainModel, job: TrainingJob, device: torch.device, rows_a_domain: int = 200
) -> dict[str, float]:
    """Scores of the trainer's own model for a few test rows of each domain, by impression, for the scorer to match."""
    files = live_files(job.split, job.versions["split"], job.ds, "test", job.layout)
    ids, rows = probe_rows(files, job.layout, rows_a_domain)
    if not ids:
        return {}
    scores = model.predict(*(torch.from_numpy(a).to(device) for a in (rows.ints, rows.floats, rows.domain)))
    return dict(zip(ids, scores.double().tolist(), strict=True))


def probe_rows(files: Sequence[DataFile], layout: Layout, rows_a_domain: int) -> tuple[list[str], Rows]:
    """Impression ids and packed rows of the first rows of each domain."""
    ids: list[str] = []
    ints, floats, domains = [b""], [b""], []
    for domain in sorted({f.domain for f in files}):
        file = next(f for f in files if f.domain == domain)
        with fsspec.open(file.url, "rb") as handle:
            table = pq.ParquetFile(handle).read(columns=["impression_id", "ints", "floats"]).slice(0, rows_a_domain)
        ids += table["impression_id"].to_pylist()
        ints += table["ints"].to_pylist()
        floats += table["floats"].to_pylist()
        domains += [domain] * table.num_rows
    n = len(ids)
    rows = Rows(
        np.frombuffer(b"".join(ints), dtype=np.int32).reshape(n, layout.ints).copy(),
        np.frombuffer(b"".join(floats), dtype=np.float32).reshape(n, layout.floats).copy(),
        np.zeros(n, dtype=np.float32),
        np.asarray(domains, dtype=np.int32),
    )
    return ids, rows
