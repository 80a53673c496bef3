"""The process group of a training run: ranks, devices, random seeds, and small collective operations."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

from star_ctr.conf.settings.trainer import TrainerSettings


def get_rank_and_size() -> tuple[int, int]:
    """Return the rank of this process and the number of processes; (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def choose_device(settings: TrainerSettings) -> torch.device:
    """Return the device of this process: the CPU, or the GPU with the local rank as its index."""
    if settings.device == "cpu" or (settings.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def seed_device(device: torch.device, value: int) -> None:
    """Seed the random generators of the CPU and of a device.

    This does not use `torch.manual_seed`. On a machine without an accelerator, each call of it adds a traceback to a
    queue that waits for one. That makes a step 10% slower, and the queue grows without bound.
    """
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed(value)


def all_max(value: int) -> int:
    """Return the largest value of all processes; all processes must call this."""
    if get_rank_and_size()[1] == 1:
        return value
    largest = torch.tensor(value, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def all_gather(x: torch.Tensor) -> list[torch.Tensor]:
    """Return the tensors `x` of all processes in the order of ranks; `x` must have the same shape in all of them."""
    return PendingGather(x).wait() if get_rank_and_size()[1] > 1 else [x]


class PendingGather:
    """An `all_gather` that runs in the background."""

    def __init__(self, x: torch.Tensor) -> None:
        self._gathered = [torch.empty_like(x) for _ in range(get_rank_and_size()[1])]
        self._work = dist.all_gather(self._gathered, x, async_op=True)

    def wait(self) -> list[torch.Tensor]:
        """Wait for the tensors of all processes, and return them in the order of ranks."""
        self._work.wait()
        return self._gathered


def barrier() -> None:
    """Wait until all processes have called this."""
    if get_rank_and_size()[1] > 1:
        dist.barrier()
