"""A callback that saves checkpoints at regular intervals and on SIGTERM."""

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
"""Actions on which the processes agree; STOP is larger, so that it takes precedence."""


class StoppedError(UserError):
    """The training run was stopped by SIGTERM after saving a checkpoint."""


class Checkpoints(Callback):
    """A callback that saves a checkpoint every few minutes. On SIGTERM, it saves one and leaves the training loop.

    The processes of a group have different clocks, and do not receive SIGTERM at the same time. After every few steps,
    they agree on what to do, so that all of them save or stop after the same step.
    """

    def __init__(self, save: Callable[[], None], minutes: float, every: int = 10) -> None:
        """Create the callback.

        Args:
            save: Function that saves a checkpoint.
            minutes: Minutes between checkpoints.
            every: Steps after which the processes of a group agree on what to do. A single process decides after each
                step.
        """
        self._save, self._seconds, self._every = save, 60 * minutes, every
        self._stop_requested = threading.Event()
        self._last_save, self._step_calls = 0.0, 0
        self._previous_handler: Any = None

    def begin(self, event: CallbackEvent) -> None:
        """Install the handler for SIGTERM; in the main thread only, because Python does not allow it in others."""
        self._last_save = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            self._previous_handler = signal.signal(signal.SIGTERM, self._request_stop)

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        self._stop_requested.set()

    def step(self, event: CallbackEvent) -> None:
        """Save a checkpoint if it is due or the process received SIGTERM.

        Raises:
            StoppedError: A process received SIGTERM, and a checkpoint was saved.
        """
        if event.step == event.steps:  # the caller of the loop saves the last checkpoint
            return
        self._step_calls += 1
        if get_rank_and_size()[1] > 1 and self._step_calls % self._every:
            return
        is_due = time.monotonic() - self._last_save > self._seconds
        action = all_max(STOP if self._stop_requested.is_set() else SAVE if is_due else 0)
        if action:
            self._save()
            self._last_save = time.monotonic()
        if action == STOP:
            raise StoppedError(
                f"stopped by SIGTERM at step {event.step} of {event.steps} after saving a checkpoint; "
                "run the same command again to resume"
            )

    def end(self, event: CallbackEvent) -> None:
        """Restore the previous handler for SIGTERM."""
        if self._previous_handler is not None:
            signal.signal(signal.SIGTERM, self._previous_handler)
            self._previous_handler = None
