"""Which rows come when: the order of an epoch as a pure function of the files, the seed and the epoch.

A batch comes from one domain (§3.2), domains in proportion to their rows: a domain of N rows has
ceil(N / batch) batches, and the batches of all domains are shuffled. Within a domain the rows come out of a
shuffled sliding window (§4.4): the domain's files in random order are read into it as it is drained,
and a batch is a random draw from what it holds. Mixed batches (§4.1, Base) come out of one window of all domains.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

MIXED = -1
"""Stands for all domains at once, where batches are mixed."""


@dataclass(frozen=True)
class DataFile:
    """One file of a split: its address, the domain of all its rows, their number, and a key that sorts it."""

    url: str
    domain: int
    rows: int
    key: tuple[str, ...] = ()


@dataclass(frozen=True)
class Read:
    """Read file number `file` into its domain's window."""

    file: int


@dataclass(frozen=True)
class Draw:
    """Draw a batch of `rows` rows from the window of `domain`."""

    domain: int
    rows: int


def count_batches(rows: int, batch_size: int) -> int:
    """Batches that `rows` rows make; the last may be short."""
    return math.ceil(rows / batch_size)


def count_rows_by_domain(files: Sequence[DataFile], mixed: bool = False) -> dict[int, int]:
    """The rows of each domain, or of all of them as MIXED."""
    rows: dict[int, int] = {}
    for file in files:
        domain = MIXED if mixed else file.domain
        rows[domain] = rows.get(domain, 0) + file.rows
    return dict(sorted(rows.items()))


def make_generator(seed: int, epoch: int, purpose: int) -> np.random.Generator:
    """Random numbers of one purpose (0: the plan, 1: draws from the window) in one epoch."""
    return np.random.default_rng(np.random.SeedSequence([seed, epoch, purpose]))


def plan_epoch(
    files: Sequence[DataFile], batch_size: int, window_rows: int, seed: int, epoch: int, mixed: bool = False
) -> Iterator[Read | Draw]:
    """The epoch as a list of reads and draws; every file is read once and every row drawn once."""
    random = make_generator(seed, epoch, 0)
    total = count_rows_by_domain(files, mixed)
    waiting: dict[int, list[int]] = {p: [] for p in total}
    for number in random.permutation(len(files)):
        waiting[MIXED if mixed else files[number].domain].append(int(number))
    order = np.repeat(list(total), [count_batches(n, batch_size) for n in total.values()])
    held = dict.fromkeys(total, 0)
    left = dict(total)
    all_rows = sum(total.values())
    for domain in random.permutation(order).tolist():
        rows = min(batch_size, left[domain])
        window = max(rows, int(window_rows * total[domain] / all_rows))
        while waiting[domain] and held[domain] < window:
            number = waiting[domain].pop()
            held[domain] += files[number].rows
            yield Read(number)
        yield Draw(domain, rows)
        held[domain] -= rows
        left[domain] -= rows
