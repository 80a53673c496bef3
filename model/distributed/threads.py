"""CPU cores and torch threads of a training process."""

from __future__ import annotations

import os
from collections.abc import Sequence

from star_ctr.conf.settings.model import ModelSettings
from star_ctr.conf.settings.trainer import TrainerSettings
from star_ctr.model.distributed.process_group import all_max, get_rank_and_size

ACTIVATIONS_PER_THREAD = 400_000
"""Outputs of hidden layers per step and thread.

Measured on two cores: a second thread speeds up training with 2000 rows and layers of 256, 128 and 64 (900,000
outputs), but not with 512 rows and the default layers (520,000).
"""


def compute_threads(rows: int, layers: Sequence[int], cores: int) -> int:
    """Return the number of torch threads for a training step, at most one per core.

    The result must not depend on anything that varies between runs, such as the load of the machine, because sums are
    bit-identical only for the same number of threads. Small batches get one thread. More threads would mostly wait.

    Args:
        rows: Rows per step in this process.
        layers: Widths of the hidden layers.
        cores: Cores that this process may use.
    """
    return max(1, min(cores, rows * sum(layers) // ACTIVATIONS_PER_THREAD))


def choose_threads(trainer: TrainerSettings, model: ModelSettings) -> int:
    """Return the number of torch threads, which is the same in all processes of a training run.

    All processes must call this. The result is `trainer.threads` if it is set, and otherwise the minimum over the
    processes, so that the number in the record applies to every process.
    """
    if trainer.threads:
        return trainer.threads
    processes_per_batch = get_rank_and_size()[1] if trainer.parallel == "rows" else 1
    return -all_max(-compute_threads(trainer.batch_size // processes_per_batch, model.layers, count_process_cores()))


def choose_readers(settings: TrainerSettings, decodes_for_all: bool = False) -> int:
    """Return the number of threads that decode files: the setting, or one per four cores of this process.

    Args:
        settings: Settings of the trainer.
        decodes_for_all: This process decodes files for all processes of the machine, so all of the machine's cores
            count.
    """
    return settings.runtime.readers or max(1, (count_cores() if decodes_for_all else count_process_cores()) // 4)


def count_cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count_process_cores() -> int:
    """Return the number of cores for this process: its share of the available cores, at most OMP_NUM_THREADS.

    Spark sets OMP_NUM_THREADS to the cores of a task. torchrun sets it to 1 if it starts several processes and the
    variable is not set.
    """
    share = count_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", get_rank_and_size()[1]))
    limit = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return max(1, min(share, int(limit)) if limit.isdigit() else share)
