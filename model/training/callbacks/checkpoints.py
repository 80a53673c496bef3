"""Checkpoints at an interval, and one more when the process is told to stop (SIGTERM)."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from star_ctr.conf.errors import UserError
from star_ctr.model.distributed.process_group import all_max, get_rank_and_size
from star_ctr.model.training.callbacks import Callback, CallbackEvent

SAVE, STOP = 1, 2


class StoppedError(UserError):
    """The training was told to stop, and has saved where it stood."""


class Checkpoints(Callback):
    """Calls `save` every `minutes`, and on SIGTERM saves and leaves the loop by `StoppedError`.

    The processes of a group have clocks of their own, and are told to stop one after the other: they agree at every
    `every`-th step on what they do, so that all of them save, or leave, at the same one.
    """

    def __init__(self, save: Callable[[], None], minutes: float, every: int = 10) -> None:
        self._save, self._seconds, self._every = save, 60 * minutes, every
        self._told = threading.Event()
        self._last, self._iter_steps = 0.0, 0
        self._before: Any = None

    def begin(self, moment: CallbackEvent) -> None:
        """Listen for SIGTERM (in the main thread alone: elsewhere Python has no signals)."""
        self._last = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._tell)

    def _tell(self, number: int, frame: FrameType | None) -> None:
        self._told.set()

    def step(self, moment: CallbackEvent) -> None:
        """Save if it is time, or if the process was told to stop."""
        if moment.step == moment.steps:  # nothing is left to stop, and the end is saved by whoever runs the loop
            return
        self._iter_steps += 1
        if get_rank_and_size()[1] > 1 and self._iter_steps % self._every:
            return
        due = time.monotonic() - self._last > self._seconds
        asked = all_max(STOP if self._told.is_set() else SAVE if due else 0)
        if asked:
            self._save()
            self._last = time.monotonic()
        if asked == STOP:
            raise StoppedError(
                f"told to stop (SIGTERM) at step {moment.step} of {moment.steps}; saved: run it again to go on"
            )

    def end(self, moment: CallbackEvent) -> None:
        """Listen no more."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None
