"""Memory that the processes of a training run on one machine share (Linux only).

The memory is an anonymous file (`memfd_create`). The other processes open it as /proc/PID/fd/N, where PID and N are the
process that created it and its file descriptor. The memory is not limited by the size of /dev/shm. The kernel frees it
when the last process that uses it ends, even if that process is killed.
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
    """Return whether all processes can read memory of the first process; all processes must call this.

    The first process writes a random number to its memory, and every process tries to read it. A single process returns
    False.
    """
    rank, processes = get_rank_and_size()
    # Processes that were started as separate machines (torchrun nodes or Spark tasks) are treated as such.
    if processes == 1 or int(os.environ.get("LOCAL_WORLD_SIZE", "1")) < processes:
        return False
    file = _create_memory(8) if rank == 0 and hasattr(os, "memfd_create") else -1
    message = torch.tensor([os.getpid(), file, secrets.randbits(62)])
    if file >= 0:
        os.write(file, message[2].numpy().tobytes())
    dist.broadcast(message, 0)
    can_read = torch.tensor(int(_read(*message[:2].tolist()) == message[2].numpy().tobytes()))
    dist.all_reduce(can_read, dist.ReduceOp.MIN)
    if file >= 0:
        os.close(file)
    return bool(can_read)


def make_shared_zeros(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return a tensor of zeros in shared memory; all processes must call this.

    Pages use memory only after they are written to.
    """
    size = max(torch.Size(shape).numel(), 1)
    file = _create_memory(size * dtype.itemsize) if get_rank_and_size()[0] == 0 else -1
    message = torch.tensor([os.getpid(), file])
    dist.broadcast(message, 0)
    tensor = torch.from_file(_make_path(*message.tolist()), shared=True, size=size, dtype=dtype)
    barrier()
    if file >= 0:
        os.close(file)
    return tensor[: torch.Size(shape).numel()].view(*shape)


def share_tensor(tensor: Tensor) -> Tensor:
    """Return a copy of a tensor in shared memory; all processes must call this.

    The tensor must be equal in all processes. The copy has the values of the first process.
    """
    shared = make_shared_zeros(tensor.shape, tensor.dtype)
    if get_rank_and_size()[0] == 0:
        shared.copy_(tensor)
    barrier()
    return shared


def _create_memory(size: int) -> int:
    """Create an anonymous file of `size` bytes and return its descriptor."""
    file = os.memfd_create("star-ctr")
    os.ftruncate(file, size)
    return file


def _make_path(process: int, file: int) -> str:
    """Return the path of a file descriptor of a process."""
    return f"/proc/{process}/fd/{file}"


def _read(process: int, file: int) -> bytes:
    """Read the file behind a descriptor of a process; returns no bytes if it cannot be read."""
    try:
        return Path(_make_path(process, file)).read_bytes()
    except OSError:
        return b""
