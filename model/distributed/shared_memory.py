"""Memory that the processes of a training on one machine have in common.

It has no name in a file system: it is handed on by the descriptor of the process that made it, is not bounded by the
size of /dev/shm, and is gone with the last process that holds it, however that one dies. (Linux.)
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from star_ctr.model.distributed.process_group import barrier, get_rank_and_size


def is_on_one_machine() -> bool:
    """Whether every process of a group of several sees memory that the first one made; all of them ask together."""
    rank, processes = get_rank_and_size()
    # Those that were started as machines of their own (torchrun's nodes, tasks of Spark) are taken at their word.
    if processes == 1 or int(os.environ.get("LOCAL_WORLD_SIZE", "1")) < processes:
        return False
    file = _create_memory(8) if rank == 0 and hasattr(os, "memfd_create") else -1
    told = torch.tensor([os.getpid(), file, secrets.randbits(62)])
    if file >= 0:
        os.write(file, told[2].numpy().tobytes())
    dist.broadcast(told, 0)
    sees = torch.tensor(int(_read(*told[:2].tolist()) == told[2].numpy().tobytes()))
    dist.all_reduce(sees, dist.ReduceOp.MIN)
    if file >= 0:
        os.close(file)
    return bool(sees)


def make_shared_zeros(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor of zeros that all processes have in common; memory is taken as it is written to. All call this."""
    size = max(torch.Size(shape).numel(), 1)
    file = _create_memory(size * dtype.itemsize) if get_rank_and_size()[0] == 0 else -1
    told = torch.tensor([os.getpid(), file])
    dist.broadcast(told, 0)
    tensor = torch.from_file(_make_path(*told.tolist()), shared=True, size=size, dtype=dtype)
    barrier()
    if file >= 0:
        os.close(file)
    return tensor[: torch.Size(shape).numel()].view(*shape)


def share_tensor(tensor: Tensor) -> Tensor:
    """A tensor that each process has alike, once for all of them. All call this."""
    common = make_shared_zeros(tensor.shape, tensor.dtype)
    if get_rank_and_size()[0] == 0:
        common.copy_(tensor)
    barrier()
    return common


def _create_memory(size: int) -> int:
    file = os.memfd_create("star-ctr")
    os.ftruncate(file, size)
    return file


def _make_path(process: int, file: int) -> str:
    return f"/proc/{process}/fd/{file}"


def _read(process: int, file: int) -> bytes:
    try:
        return Path(_make_path(process, file)).read_bytes()
    except OSError:
        return b""
