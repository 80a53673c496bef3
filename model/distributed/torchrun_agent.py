r"""A launcher that runs torchrun on one machine.

    python -m star_ctr.model.distributed.torchrun_agent STORE \
        --nproc-per-node=2 --max-restarts=2 -m star_ctr.model.train JOB.json

The training processes end when this process ends. They listen on the loopback interface only. For rendezvous, they use
file stores in the folder STORE instead of a TCP server.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from torch.distributed import FileStore, Store  # type: ignore[attr-defined]
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as run_torchrun

from star_ctr.model.distributed.process_lifetime import end_with_parent, make_child_environment

STORE = "STAR_CTR_STORE"
"""Environment variable with the folder of the file stores; not set if the processes run on several machines."""
STOPPED = 3
"""Exit code of a training run that was stopped by a signal after saving a checkpoint."""


def open_store(restarts: str, processes: int) -> Store | None:
    """Return the store for a group of processes on one machine.

    Each restart of the group uses a new store, because the old one contains the addresses of dead processes.

    Args:
        restarts: Number of restarts of the group so far.
        processes: Number of processes in the group.

    Returns:
        The store, or None to use the store of torchrun.
    """
    folder = os.environ.get(STORE)
    return FileStore(str(Path(folder) / f"group-{restarts}"), processes) if folder else None


def main(store: str, arguments: list[str]) -> int:
    """Run torchrun.

    Args:
        store: Folder of the file stores.
        arguments: Command line arguments of torchrun.

    Returns:
        0 if training finished, `STOPPED` if a signal stopped it, and 1 if a process
        failed.
    """
    end_with_parent()
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    os.environ.update(make_child_environment())
    os.environ.update({STORE: store, "GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback})
    # Otherwise, the agent starts a TCP server for its workers, which listens on all interfaces and is not used.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    rendezvous = ["--rdzv-backend=c10d", f"--rdzv-endpoint={store}/agents", "--rdzv-conf=store_type=file"]
    try:
        run_torchrun([*rendezvous, "--local-addr=127.0.0.1", *arguments])
    except SignalException:
        return STOPPED
    except ChildFailedError as error:  # the failed process has already printed its error
        return STOPPED if any(f.exitcode == STOPPED for f in error.failures.values()) else 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], sys.argv[2:]))
