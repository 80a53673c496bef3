"""Samples of training rows for calibration, weighted by age."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.model.data.batch_order import DataFile
from star_ctr.model.data.new_ids import NewIds
from star_ctr.model.data.reader import read_files

_ROWS = 4096
"""Rows per forward pass."""


class SampleRows(NamedTuple):
    """Rows of one domain.

    Attributes:
        domain: The number of the domain.
        ints: Integers of the rows, shape (n, `Layout.int_count`), on the device of the model.
        floats: Numbers of the rows, shape (n, `Layout.float_count`), on the device of the model.
        label: Labels, shape (n,), float64 on the CPU.
        weight: Weights, shape (n,), float64 on the CPU.
        outcomes: Labels of the further outcomes, shape (n, K), float64 on the CPU; None if there are none.
    """

    domain: int
    ints: Tensor
    floats: Tensor
    label: Tensor
    weight: Tensor
    outcomes: Tensor | None


def choose_sample_files(files: Sequence[DataFile], rows_per_domain: int) -> list[DataFile]:
    """Return files of each domain that together have at least `rows_per_domain` rows.

    A domain with fewer rows contributes all of its files. Rows of a night or day are stored in random order, so the
    first files are a sample of it. If training rows are stored by day, every day contributes the same number of files,
    the newest one first.
    """
    chosen: list[DataFile] = []
    rows: dict[int, int] = {}
    counts: dict[tuple[int, str], int] = {}
    position = []
    for file in files:
        position.append(counts.setdefault((file.domain, file.ds), 0))
        counts[file.domain, file.ds] += 1
    days = sorted({file.ds for file in files}, reverse=True)
    order = sorted(range(len(files)), key=lambda k: (files[k].domain, position[k], days.index(files[k].ds), k))
    for file in (files[k] for k in order):
        if rows.get(file.domain, 0) < rows_per_domain:
            chosen.append(file)
            rows[file.domain] = rows.get(file.domain, 0) + file.rows
    return chosen


def iter_sample(
    files: Sequence[DataFile],
    layout: Layout,
    half_life: float,
    device: torch.device,
    new_ids: NewIds | None,
    use_row_weights: bool = False,
) -> Iterator[SampleRows]:
    """Iterate over all rows of files, in parts of a few thousand rows.

    Args:
        files: The files.
        layout: Layout of the encoded rows.
        half_life: Half-life of the weight of a row, in days before the newest training day.
        device: Device of the model.
        new_ids: The first day of each id, to mask new ids; None to mask none.
        use_row_weights: Whether to multiply the weight by age by the row's weight in training.

    Yields:
        The rows.
    """
    newest = dt.date.fromisoformat(layout.ds).toordinal() - 1
    for file, rows in zip(files, read_files(files, layout, days=True), strict=True):
        if new_ids is not None:
            rows = new_ids.mask(rows)
        weight = np.exp2((rows.number_days() - newest) / half_life)
        if use_row_weights and rows.weight is not None:
            weight = weight * rows.weight
        for start in range(0, len(rows), _ROWS):
            part = rows.part(slice(start, start + _ROWS))
            tensors = {name: torch.from_numpy(a.copy()) for name, a in part.columns.items()}
            outcomes = tensors.get("outcomes")
            yield SampleRows(
                file.domain,
                tensors["ints"].to(device),
                tensors["floats"].to(device),
                tensors["label"].double(),
                torch.from_numpy(weight[start : start + _ROWS].copy()),
                None if outcomes is None else outcomes.double(),
            )
