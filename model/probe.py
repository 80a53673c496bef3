"""A sample of test rows that both the trainer's model and the scorer score: one model, one score."""

from __future__ import annotations

from collections.abc import Sequence

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from star_ctr.conf.layout import Layout
from star_ctr.model.plan import DataFile
from star_ctr.model.stream import Rows


def probe_rows(
    files: Sequence[DataFile], layout: Layout, rows_a_domain: int
) -> tuple[list[str], Rows, npt.NDArray[np.int32]]:
    """Impression ids, packed rows and domain numbers of the first rows of each domain."""
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
    )
    return ids, rows, np.asarray(domains, dtype=np.int32)
