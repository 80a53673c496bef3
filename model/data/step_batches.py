"""The batches of each step of a training: each process makes them for itself, or the first of a machine for all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch

from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.model.data.batches import AHEAD, Batch, prefetch
from star_ctr.model.data.reader import Rows
from star_ctr.model.distributed.process_group import barrier, get_rank_and_size
from star_ctr.model.distributed.shared_memory import make_shared_zeros


def _compute_depth(a_step: int) -> int:
    """Batches made ahead of the training: of two steps at least, so that none begins with waiting for its own."""
    return max(AHEAD, 2 * a_step)


class StepBatches:
    """Hands out the batches of one step after the other; they are made in a thread of their own."""

    def __init__(self, batches: Iterator[Batch], a_step: int, pin: bool = False) -> None:
        self._iter_batches = prefetch(batches, _compute_depth(a_step), pin)
        self._a_step = a_step
        self.waited = 0.0
        """Seconds in which batches were asked for that were not ready."""

    def take(self) -> list[Batch]:
        """The batches of the next step, fewer where there are no more."""
        asked = time.monotonic()
        together = list(islice(self._iter_batches, self._a_step))
        self.waited += time.monotonic() - asked
        return together

    def close(self) -> None:
        """Make no more."""
        self._iter_batches.close()


class SharedStepBatches(StepBatches):
    """Those of processes that have memory in common: the first one makes the batches, and all of them see them.

    To take a step's batches they wait for one another, so that whatever a process wrote for the others before
    (`gradients.SharedTableGradients`), they see after it.
    """

    def __init__(self, batches: Iterator[Batch], a_step: int, layout: Layout, batch_size: int) -> None:
        # Of those made ahead, the one that is being made, and those of this step and of the last: hooks look at them.
        self._slots = slots = _compute_depth(a_step) + 1 + 2 * a_step
        self._rows = Rows(
            make_shared_zeros([slots, batch_size, layout.ints], torch.int32).numpy(),
            make_shared_zeros([slots, batch_size, layout.floats], torch.float32).numpy(),
            make_shared_zeros([slots, batch_size], torch.float32).numpy(),
            make_shared_zeros([slots, batch_size], torch.int32).numpy(),
        )
        self._file = make_shared_zeros([slots, batch_size], torch.int32).numpy()
        self._told = make_shared_zeros([2, a_step, 2], torch.long)
        """Of each batch of this step and of the last its rows, 0 where there is none, and its domain."""
        self._iter_steps = self._taken = 0
        super().__init__(self._wrap_batches(batches) if get_rank_and_size()[0] == 0 else iter(()), a_step)

    def take(self) -> list[Batch]:
        """The batches of the next step, when all processes ask for them."""
        told = self._told[self._iter_steps % 2]  # the others may be about to look at the last step's
        if get_rank_and_size()[0] == 0:
            made = [(len(batch.rows), batch.domain) for batch in super().take()]
            told.zero_()[: len(made)] = torch.tensor(made).view(-1, 2)
        barrier()
        there = [(n, domain) for n, domain in told.tolist() if n]
        together = [self._batch(self._taken + k, n, domain) for k, (n, domain) in enumerate(there)]
        self._iter_steps += 1
        self._taken += len(together)
        return together

    def _wrap_batches(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for number, made in enumerate(batches):
            batch = self._batch(number, len(made.rows), made.domain)
            for mine, new in (
                (batch.rows.ints, made.rows.ints),
                (batch.rows.floats, made.rows.floats),
                (batch.rows.label, made.rows.label),
                (batch.rows.domain, made.rows.domain),
                (batch.file, made.file),
            ):
                np.copyto(mine, new)
            yield batch

    def _batch(self, number: int, n: int, domain: int) -> Batch:
        """The batch of that number, where it lies."""
        slot, rows = number % self._slots, self._rows
        return Batch(
            domain,
            Rows(rows.ints[slot, :n], rows.floats[slot, :n], rows.label[slot, :n], rows.domain[slot, :n]),
            self._file[slot, :n],
        )
