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
"""Time for a process to save a checkpoint after SIGTERM."""


def end_with_parent(parent: int | None = None) -> None:
    """Kill this process when its parent ends.

    A parent that is killed cannot stop its children. Without this function, the processes of a killed training run
    would keep running next to those of the run that replaces it.

    Args:
        parent: Process id of the parent. By default, the value of the environment variable `PARENT`, or the current
            parent.
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
    """Run a command as a child process, which always ends before this function returns.

    SIGTERM is forwarded to the child. If this function is left by an error, the child receives SIGTERM. If it does not
    end within a grace period, it is killed.

    Args:
        command: The command and its arguments.
        environment: All environment variables of the child; the variable of `make_child_environment` is added.

    Returns:
        The exit code of the command.
    """
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
    """Forward a signal to a process.

    Outside the main thread, this does nothing, because Python sets signal handlers in the main thread only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def forward(_number: int, _frame: FrameType | None) -> None:
        if process.poll() is None:
            process.send_signal(number)

    previous = signal.signal(number, forward)
    try:
        yield
    finally:
        signal.signal(number, previous)
