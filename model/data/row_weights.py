"""Weights of training rows, by which their losses are multiplied.

Weights are divided by their mean over the training rows of all domains. So a row counts once on average, whatever the
scale of the weights, and learning rates keep their meaning. Batches are the same as without weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from star_ctr.conf.errors import DataError
from star_ctr.model.data.batch_order import DataFile
from star_ctr.model.data.negative_downsampling import select_rows

_THREADS = 8
_SMALLEST = np.finfo(np.float32).tiny


def add_mean_weight(files: Sequence[DataFile]) -> list[DataFile]:
    """Compute the mean weight of all used rows, and add it to the files.

    Reads the weights of all files, and the labels of files whose negatives are downsampled.

    Args:
        files: Files of a split whose rows have weights.

    Returns:
        The files with the mean weight.

    Raises:
        DataError: A weight is missing.
    """
    if not files:
        return []
    with ThreadPoolExecutor(_THREADS) as pool:
        total = math.fsum(pool.map(_sum_weights, files))
    mean = total / sum(file.rows for file in files)
    return [replace(file, mean_weight=mean) for file in files]


def _sum_weights(file: DataFile) -> float:
    """Return the sum of the weights of the used rows of a file."""
    is_sampled = file.stored_rows is not None
    with fsspec.open(file.url, "rb") as source:
        rows = pq.read_table(source, columns=["weight", *(["label"] if is_sampled else [])], partitioning=None)
    weight: npt.NDArray[np.float64] = rows["weight"].to_numpy()
    if is_sampled:
        weight = weight[select_rows(file, rows["label"].to_numpy())]
    total = math.fsum(weight)
    if math.isnan(total):
        raise DataError(f"{file.url}: rows without a weight; run `star-ctr split` again")
    return total


def scale_weights(weight: npt.NDArray[np.float64], mean: float) -> npt.NDArray[np.float32]:
    """Divide weights by their mean over all rows.

    Args:
        weight: The weights, shape (n,).
        mean: The mean.

    Returns:
        The scaled weights, shape (n,). They are positive, so that the sum of the weights of a batch is not 0.
    """
    return np.maximum(weight / mean, _SMALLEST).astype(np.float32)
