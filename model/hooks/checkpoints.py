"""Checkpoints at an interval, and one more when the process is told to stop (SIGTERM)."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from star_ctr.conf.errors import UserError
from star_ctr.model.hooks import Hook, Moment
from star_ctr.model.processes import any_of, world


class StoppedError(UserError):
    """The training was told to stop, and has saved where it stood."""


class Checkpoints(Hook):
    """Calls `save` every `minutes`, and on SIGTERM saves and leaves the loop by `StoppedError`.

    The processes of a group are told to stop one after the other: they agree on the step at which they do, in the
    sum that they exchange at every `every`-th step, so that all of them leave at the same one.
    """

    def __init__(self, save: Callable[[], None], minutes: float, every: int = 10) -> None:
        self._save, self._seconds, self._every = save, 60 * minutes, every
        self._told = threading.Event()
        self._last = 0.0
        self._before: Any = None

    def begin(self, moment: Moment) -> None:
        """Listen for SIGTERM (in the main thread alone: elsewhere Python has no signals)."""
        self._last = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._tell)

    def _tell(self, number: int, frame: FrameType | None) -> None:
        self._told.set()

    def step(self, moment: Moment) -> None:
        """Save if it is time, or if the process was told to stop."""
        if moment.step == moment.steps:  # nothing is left to stop, and the end is saved by whoever runs the loop
            return
        alone = world()[1] == 1
        if (alone or moment.step % self._every == 0) and any_of(self._told.is_set()):
            self._save()
            raise StoppedError(
                f"told to stop (SIGTERM) at step {moment.step} of {moment.steps}; saved: run it again to go on"
            )
        if time.monotonic() - self._last > self._seconds:
            self._save()
            self._last = time.monotonic()

    def end(self, moment: Moment) -> None:
        """Listen no more."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None
