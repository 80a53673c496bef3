"""Downsampling of the training rows without a click (negatives).

With a rate of 0.1, training keeps all clicked rows and a tenth of the negatives. This multiplies the odds of a click by
ten, so log(0.1) is added to the output biases of the trained model.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from star_ctr.conf.contracts.domains import DomainIndex
from star_ctr.model.data.batch_order import DataFile

_logger = logging.getLogger(__name__)


def resolve_rates(negatives: float | Mapping[str, float], domains: DomainIndex, n_domains: int) -> dict[int, float]:
    """Return the rate of each domain number.

    Args:
        negatives: The rate of all domains, or rates by domain name; other domains then have the rate 1.
        domains: The numbers of the domains.
        n_domains: The number of domains, with domain 0.

    Returns:
        The rates by domain number.
    """
    if isinstance(negatives, Mapping):
        if unknown := [name for name in negatives if name not in domains]:
            _logger.warning(
                "trainer.negatives: ignored the rates of %s: no training rows of these domains", ", ".join(unknown)
            )
        named = {domains.get_number(name): rate for name, rate in negatives.items() if name in domains}
        return {p: named.get(p, 1.0) for p in range(n_domains)}
    return dict.fromkeys(range(n_domains), negatives)


def downsample_files(files: Sequence[DataFile], rates: Mapping[int, float], seed: int) -> list[DataFile]:
    """Downsample the negatives of the files.

    Reads the labels of all files whose domain has a rate below 1.

    Args:
        files: The files.
        rates: The share of the negatives to keep, by domain number.
        seed: Training seed.

    Returns:
        The files with the number of rows that are kept. Those without any are left out.
    """
    sampled = []
    for file in files:
        if (rate := rates.get(file.domain, 1.0)) < 1:
            file = replace(file, rate=rate, seed=seed, stored_rows=file.rows)
            with fsspec.open(file.url, "rb") as source:
                label = pq.read_table(source, columns=["label"], partitioning=None)["label"].to_numpy()
            file = replace(file, rows=int(select_rows(file, label).sum()))
        if file.rows:
            sampled.append(file)
    return sampled


def select_rows(file: DataFile, label: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Return which rows of a file are kept: all clicked rows, and a random sample of the negatives.

    The sample depends only on the seed and on the contents of the file.

    Args:
        file: The file.
        label: Labels of its rows, shape (n,).

    Returns:
        A mask of shape (n,).
    """
    text = repr((file.seed, file.domain, file.key, len(label)))
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    drawn = np.random.default_rng(int.from_bytes(digest, "big")).random(len(label))
    return (label > 0) | (drawn < file.rate)
