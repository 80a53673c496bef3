"""The batches of each training step.

`StepBatches` prepares them in every process. `SharedStepBatches` prepares them in the first process of a machine, and
the other processes read them from shared memory.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch

from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.model.data.batches import PREFETCH_BATCHES, Batch, prefetch
from star_ctr.model.data.reader import Rows
from star_ctr.model.distributed.process_group import barrier, get_rank_and_size
from star_ctr.model.distributed.shared_memory import make_shared_zeros


def _compute_depth(batches_per_step: int) -> int:
    """Return the number of batches to prepare ahead: at least two steps, so that no step waits for its batches."""
    return max(PREFETCH_BATCHES, 2 * batches_per_step)


class StepBatches:
    """The batches of one training step after the other, prepared in a background thread.

    Attributes:
        waited: Seconds that `take` has waited for batches.
    """

    def __init__(self, batches: Iterator[Batch], batches_per_step: int, pin: bool = False) -> None:
        """Start preparing batches.

        Args:
            batches: All batches of the training run.
            batches_per_step: Number of batches per step.
            pin: Copy batches to pinned memory for a GPU.
        """
        self._batches = prefetch(batches, _compute_depth(batches_per_step), pin)
        self._batches_per_step = batches_per_step
        self.waited = 0.0

    def take(self) -> list[Batch]:
        """Return the batches of the next step; fewer at the end, and none after it."""
        start = time.monotonic()
        batches = list(islice(self._batches, self._batches_per_step))
        self.waited += time.monotonic() - start
        return batches

    def close(self) -> None:
        """Stop preparing batches."""
        self._batches.close()


class SharedStepBatches(StepBatches):
    """The batches of each step in shared memory.

    The first process writes batches to slots of the shared memory, and all processes return views of them. `take` waits
    for all processes. Data that a process wrote to shared memory before `take` is therefore visible to the others after
    it (see `gradients.SharedTableGradients`).
    """

    def __init__(self, batches: Iterator[Batch], batches_per_step: int, layout: Layout, batch_size: int) -> None:
        """Allocate the shared memory, and start preparing batches in the first process. All processes must call this.

        Args:
            batches: All batches of the training run; only used by the first process.
            batches_per_step: Number of batches per step.
            layout: Layout of the encoded rows.
            batch_size: Maximum number of rows per batch.
        """
        # Batches that are ready, the one that is being copied, and those of this step and of the last one, which
        # callbacks may still read.
        self._slots = slots = _compute_depth(batches_per_step) + 1 + 2 * batches_per_step
        self._rows = Rows(
            make_shared_zeros([slots, batch_size, layout.int_count], torch.int32).numpy(),
            make_shared_zeros([slots, batch_size, layout.float_count], torch.float32).numpy(),
            make_shared_zeros([slots, batch_size], torch.float32).numpy(),
            make_shared_zeros([slots, batch_size], torch.int32).numpy(),
            weight=make_shared_zeros([slots, batch_size], torch.float32).numpy() if layout.has_weights else None,
            outcomes=make_shared_zeros([slots, batch_size, len(layout.outcomes)], torch.float32).numpy()
            if layout.outcomes
            else None,
        )
        self._file = make_shared_zeros([slots, batch_size], torch.int32).numpy()
        self._headers = make_shared_zeros([2, batches_per_step, 2], torch.long)
        """Row count and domain of each batch of this step and of the last one; row count 0 if there is no batch."""
        self._step = self._taken = 0
        super().__init__(self._copy_batches(batches) if get_rank_and_size()[0] == 0 else iter(()), batches_per_step)

    def take(self) -> list[Batch]:
        """Return the batches of the next step; all processes must call this."""
        header = self._headers[self._step % 2]  # other processes may still read the header of the last step
        if get_rank_and_size()[0] == 0:
            sizes = [(len(batch.rows), batch.domain) for batch in super().take()]
            header.zero_()[: len(sizes)] = torch.tensor(sizes).view(-1, 2)
        barrier()
        sizes = [(n, domain) for n, domain in header.tolist() if n]
        batches = [self._view_slot(self._taken + k, n, domain) for k, (n, domain) in enumerate(sizes)]
        self._step += 1
        self._taken += len(batches)
        return batches

    def _copy_batches(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Copy batches to shared memory and return the copies."""
        for number, batch in enumerate(batches):
            shared = self._view_slot(number, len(batch.rows), batch.domain)
            for name, source in batch.rows.columns.items():
                np.copyto(shared.rows.columns[name], source)
            np.copyto(shared.file, batch.file)
            yield shared

    def _view_slot(self, number: int, n: int, domain: int) -> Batch:
        """Return the batch with index `number` as a view of its slot in shared memory."""
        slot = number % self._slots
        rows = Rows(**{name: array[slot, :n] for name, array in self._rows.columns.items()})
        return Batch(domain, rows, self._file[slot, :n])
