"""Child processes that end with their parent, whichever signal ends the parent."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

PARENT = "STAR_CTR_PARENT"
"""Environment variable with the process id of the parent."""
_POLL_SECONDS = 0.1
"""Interval between checks of the parent."""
_GRACE_SECONDS = 60.0
"""Time that a process has to save a checkpoint after SIGTERM."""


def end_with_parent(parent: int | None = None) -> None:
    """Kill this process when its parent is gone.

    A parent that is killed cannot stop its children. Without this, the processes of a killed training would keep
    running next to those of the training that replaces it.

    Args:
        parent: The process id of the parent. By default, the one in the environment, or the current parent.
    """
    parent = parent or int(os.environ.get(PARENT, os.getppid()))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def make_child_environment() -> dict[str, str]:
    """Return the environment variables that `end_with_parent` reads in child processes."""
    return {PARENT: str(os.getpid())}


def run_child(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command and return its exit code; forwards SIGTERM to it and always ends it before returning."""
    process = subprocess.Popen(command, env={**environment, **make_child_environment()})
    try:
        with _forward_signal(signal.SIGTERM, process):
            return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def _forward_signal(number: signal.Signals, process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Forward a signal to a process; does nothing outside the main thread, which cannot set signal handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def forward(_number: int, _frame: FrameType | None) -> None:
        if process.poll() is None:
            process.send_signal(number)

    before = signal.signal(number, forward)
    try:
        yield
    finally:
        signal.signal(number, before)
