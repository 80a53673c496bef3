"""The processes of a training: who they are, what each of them runs on, and what they tell each other."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

from star_ctr.conf.settings.trainer import TrainerSettings


def get_rank_and_size() -> tuple[int, int]:
    """(rank, processes)."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def choose_device(settings: TrainerSettings) -> torch.device:
    """The device of this process."""
    if settings.device == "cpu" or (settings.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def seed_device(device: torch.device, value: int) -> None:
    """Seed the draws on a device and on the CPU.

    Not by torch.manual_seed: where a machine has no accelerator, each call leaves a traceback in a queue that waits
    for one, which costs a step a tenth more and grows without bound.
    """
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed(value)


def all_max(value: int) -> int:
    """The largest value of all processes; all of them ask at the same place."""
    if get_rank_and_size()[1] == 1:
        return value
    largest = torch.tensor(value, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def all_gather(x: torch.Tensor) -> list[torch.Tensor]:
    """The `x` of each process, of one shape, in the order of ranks."""
    return PendingGather(x).wait() if get_rank_and_size()[1] > 1 else [x]


class PendingGather:
    """The `x` of each process, as `all_gather`, on its way while other things are done."""

    def __init__(self, x: torch.Tensor) -> None:
        self._found = [torch.empty_like(x) for _ in range(get_rank_and_size()[1])]
        self._work = dist.all_gather(self._found, x, async_op=True)

    def wait(self) -> list[torch.Tensor]:
        """What came, in the order of ranks."""
        self._work.wait()
        return self._found


def barrier() -> None:
    """Go on when all processes are here."""
    if get_rank_and_size()[1] > 1:
        dist.barrier()
