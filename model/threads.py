"""The CPU cores and the threads of a training process."""

from __future__ import annotations

import os
from collections.abc import Sequence

from star_ctr.conf.training import ModelSettings, TrainerSettings
from star_ctr.model.processes import most_of, world

ACTIVATIONS_PER_THREAD = 400_000
"""Outputs of the hidden layers in a step for each thread.

Measured on two cores: a second thread makes a training faster at 2000 rows of layers of 256, 128 and 64 (900,000
outputs), and not at 512 rows of the default layers (520,000).
"""


def threads_for(rows: int, layers: Sequence[int], cores: int) -> int:
    """Return how many torch threads a step on some rows of a batch is worth, at most one a core.

    It depends on nothing that changes from run to run, such as the load: sums of another number of threads have other
    bits. Small batches take one thread, which more of them only wait for.

    Args:
        rows: Rows of a step that fall to this process.
        layers: Widths of the hidden layers.
        cores: Cores that this process owns.
    """
    return max(1, min(cores, rows * sum(layers) // ACTIVATIONS_PER_THREAD))


def choose_threads(trainer: TrainerSettings, model: ModelSettings) -> int:
    """Return the number of torch threads for this process; all processes of a training get the same number.

    All processes must call this together: `trainer.threads` if it is set, else the smallest of their own choices, so
    that the number in the record is that of every process.
    """
    if trainer.threads:
        return trainer.threads
    cut_over = world()[1] if trainer.parallel == "rows" else 1
    return -most_of(-threads_for(trainer.batch_size // cut_over, model.layers, own_cores()))


def readers_for(settings: TrainerSettings, for_all: bool = False) -> int:
    """Return the number of threads that decode files: the setting, or one for every four cores of this process.

    With `for_all` this process decodes for all processes of the machine, and all cores count.
    """
    return settings.readers or max(1, (available_cores() if for_all else own_cores()) // 4)


def available_cores() -> int:
    """Return the number of cores that the operating system lets this process run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def own_cores() -> int:
    """Return this process's share of the available cores, and at most OMP_NUM_THREADS.

    Spark sets OMP_NUM_THREADS to the cores of a task, and torchrun to 1 if it starts several processes and finds it
    unset.
    """
    share = available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", world()[1]))
    limit = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return max(1, min(share, int(limit)) if limit.isdigit() else share)
