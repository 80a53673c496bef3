"""Downsampling of the training rows without a click (negatives).

With a rate of 0.1, training keeps all clicked rows and a tenth of the negatives. This multiplies the odds of a click by
ten, so log(0.1) is added to the output biases of the trained model.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from star_ctr.conf.contracts.domains import DomainIndex
from star_ctr.conf.errors import UserError, suggest_nearest
from star_ctr.model.data.batch_order import DataFile, count_rows_by_domain

_logger = logging.getLogger(__name__)
_THREADS = 8


def resolve_rates(negatives: float | Mapping[str, float], domains: DomainIndex) -> dict[int, float]:
    """Return the rate of each domain number.

    Args:
        negatives: The rate of all domains, or rates by domain name; other domains then have the rate 1.
        domains: The numbers of the domains.

    Returns:
        The rates by domain number.

    Raises:
        UserError: A domain is not known.
    """
    if isinstance(negatives, Mapping):
        if unknown := next((name for name in negatives if name not in domains), None):
            hint = suggest_nearest(unknown, domains.names[1:])
            raise UserError(
                f"trainer.negatives: no training rows of the domain `{unknown}`{hint}; correct or remove it"
            )
        return {p: negatives.get(name, 1.0) for p, name in enumerate(domains.names)}
    return dict.fromkeys(range(len(domains)), negatives)


def compute_log_rates(rates: Mapping[int, float], rows: Mapping[int, int]) -> dict[int, float]:
    """Return the logarithm of the rate of each domain number.

    The predictions for a domain without training rows come from weights that were trained on the rows of other domains,
    so it gets the mean of theirs.

    Args:
        rates: The rates by domain number.
        rows: The number of training rows by domain number.
    """
    total = sum(rows.values())
    mean = sum(n * math.log(rates.get(p, 1.0)) for p, n in rows.items()) / total if total else 0.0
    return {p: math.log(rate) if rows.get(p) else mean for p, rate in rates.items()}


def downsample_files(
    files: Sequence[DataFile], rates: Mapping[int, float], seed: int
) -> tuple[list[DataFile], dict[int, float]]:
    """Downsample the negatives of the files.

    Reads the labels of all files whose domain has a rate below 1. All rows of a domain are kept if it would otherwise
    have none.

    Args:
        files: The files.
        rates: The share of the negatives to keep, by domain number.
        seed: Training seed.

    Returns:
        The files with the number of rows that are kept, without empty ones; and the rates that were applied.
    """
    applied = dict(rates)

    def downsample(file: DataFile) -> DataFile:
        if (rate := rates.get(file.domain, 1.0)) == 1:
            return file
        file = replace(file, rate=rate, seed=seed, stored_rows=file.rows)
        with fsspec.open(file.url, "rb") as source:
            label = pq.read_table(source, columns=["label"], partitioning=None)["label"].to_numpy()
        return replace(file, rows=int(select_rows(file, label).sum()))

    if min(rates.values(), default=1.0) == 1:
        return list(files), applied
    with ThreadPoolExecutor(_THREADS) as pool:
        kept = list(pool.map(downsample, files))
    rows = count_rows_by_domain(kept)
    for p in (p for p, n in rows.items() if n == 0):
        _logger.warning("trainer.negatives: domain %d has no clicks, so all of its rows are kept", p)
        applied[p] = 1.0
    chosen = [before if rows[file.domain] == 0 else file for before, file in zip(files, kept, strict=True)]
    return [file for file in chosen if file.rows], applied


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
