"""The order of rows in an epoch, as a pure function of the files, the seed and the epoch.

`plan_epoch` returns a sequence of steps. Each step reads a file into a window or draws a batch from a window:

1. Every batch holds rows of one domain (§3.2). A domain with N rows has ceil(N / batch_size) batches. The batches of
   all domains are shuffled together, so that domains occur in proportion to their rows.
2. Each domain has a shuffled sliding window (§4.4). The files of the domain are read into the window in random order
   as it is drained, and a batch is a random draw from the window.
3. Mixed batches (§4.1, Base) are drawn from a single window of all domains.

A larger window mixes the rows of more files but takes more memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from star_ctr.conf.contracts.domains import MIXED


@dataclass(frozen=True)
class DataFile:
    """One file of a split.

    Attributes:
        url: Address of the file.
        domain: Domain number of all its rows.
        rows: Number of rows that are used.
        key: Sort key of the file, computed from its contents.
        stored_rows: Number of rows in the file; None if all are used.
        rate: Share of its rows without a click that are used; see `negative_downsampling`.
        seed: Seed of the sample.
        mean_weight: Mean weight of the rows of all files, by which weights are divided; None without weights.
        ds: Partition `ds` of the file: the night, or the day of training rows that are stored once for all nights.
    """

    url: str
    domain: int
    rows: int
    key: tuple[str, ...] = ()
    stored_rows: int | None = None
    rate: float = 1.0
    seed: int = 0
    mean_weight: float | None = None
    ds: str = ""


@dataclass(frozen=True)
class Read:
    """A step that reads the file with index `file` into the window of its domain."""

    file: int


@dataclass(frozen=True)
class Draw:
    """A step that draws a batch of `rows` rows from the window of `domain`."""

    domain: int
    rows: int


def count_batches(rows: int, batch_size: int) -> int:
    """Return the number of batches for `rows` rows; the last batch may be smaller."""
    return math.ceil(rows / batch_size)


def count_rows_by_domain(files: Sequence[DataFile], mixed: bool = False) -> dict[int, int]:
    """Return the number of rows of each domain, or the total under the key `MIXED` if `mixed`."""
    rows: dict[int, int] = {}
    for file in files:
        domain = MIXED if mixed else file.domain
        rows[domain] = rows.get(domain, 0) + file.rows
    return dict(sorted(rows.items()))


def make_generator(seed: int, epoch: int, purpose: int, *more: int) -> np.random.Generator:
    """Return the random generator of an epoch for one purpose.

    Args:
        seed: Training seed.
        epoch: Number of the epoch.
        purpose: 0 for the plan, 1 for draws from the windows, 2 for masks of new ids.
        *more: Further numbers that the generator depends on, such as the index of a file.
    """
    return np.random.default_rng(np.random.SeedSequence([seed, epoch, purpose, *more]))


def plan_epoch(
    files: Sequence[DataFile], batch_size: int, window_rows: int, seed: int, epoch: int, mixed: bool = False
) -> Iterator[Read | Draw]:
    """Plan an epoch as a sequence of reads and draws.

    Args:
        files: Files of the split; a `Read` refers to a file by its index in this sequence.
        batch_size: Maximum number of rows per batch.
        window_rows: Rows in the windows of all domains together. Each domain gets a share in proportion to its rows,
            but at least the rows of one batch.
        seed: Training seed.
        epoch: Number of the epoch, from 0.
        mixed: Draw batches from one window of all domains.

    Yields:
        The steps of the epoch. Every file is read once, and every row is drawn once.
    """
    random = make_generator(seed, epoch, 0)
    total = count_rows_by_domain(files, mixed)
    unread: dict[int, list[int]] = {p: [] for p in total}
    for number in random.permutation(len(files)):
        unread[MIXED if mixed else files[number].domain].append(int(number))
    batches = np.repeat(list(total), [count_batches(n, batch_size) for n in total.values()])
    in_window = dict.fromkeys(total, 0)
    not_drawn = dict(total)
    all_rows = sum(total.values())
    for domain in random.permutation(batches).tolist():
        rows = min(batch_size, not_drawn[domain])
        window = max(rows, int(window_rows * total[domain] / all_rows))
        while unread[domain] and in_window[domain] < window:
            number = unread[domain].pop()
            in_window[domain] += files[number].rows
            yield Read(number)
        yield Draw(domain, rows)
        in_window[domain] -= rows
        not_drawn[domain] -= rows
