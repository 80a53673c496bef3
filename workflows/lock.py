"""One writer a warehouse: a lock that its process holds and that goes with it, however it ends."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TextIO

from star_ctr.conf.errors import UserError
from star_ctr.conf.settings import Settings

_PATIENCE = 1.0
"""Seconds before the lock counts as held: who asks for its state takes it for an instant."""


@contextmanager
def only_writer(settings: Settings, wait: bool = False) -> Iterator[None]:
    """Hold the warehouse while writing to it; where another process has it: wait, or a `UserError` that names it.

    Only on file systems that lock: for a warehouse in an object store the scheduler must see to it that one night
    runs at a time (Delta still refuses commits that contradict each other).
    """
    if "://" in settings.paths.warehouse:
        yield
        return
    path = Path(settings.paths.warehouse) / "lock.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        asked = time.monotonic()
        while not _taken(file):
            if not wait and time.monotonic() - asked > _PATIENCE:
                raise UserError(
                    f"{settings.paths.warehouse}: {_holder(file)} is writing to it; wait until it is done, or pass "
                    "--wait"
                )
            time.sleep(0.2)
        file.truncate(0)
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        held = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
        file.write(json.dumps({**held, "command": command}))
        file.flush()
        yield


def held(settings: Settings) -> bool:
    """Whether a process is writing to the warehouse now."""
    path = Path(settings.paths.warehouse) / "lock.json"
    if not path.exists():
        return False
    with path.open("a+", encoding="utf-8") as file:
        return not _taken(file)


def _taken(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(file: TextIO) -> str:
    file.seek(0)
    try:
        of = json.loads(file.read())
    except ValueError:
        return "another process"
    return f"process {of['pid']} on {of['host']} (`{of['command']}`, since {of['since']})"
