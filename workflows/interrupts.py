"""Handling of Ctrl-C during calls to Spark."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def raise_interrupts() -> Iterator[None]:
    """Raise `KeyboardInterrupt` if SIGINT arrives inside the block, even if Spark raises another error."""
    # py4j reports Ctrl-C as an error of the call to Spark that it interrupts.
    from py4j.protocol import Py4JError  # type: ignore[import-untyped]
    from pyspark.errors import PySparkException

    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield  # only the main thread handles signals
        return
    received = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received = True
        previous(number, frame)

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    except (Py4JError, PySparkException) as error:
        if received:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, previous)
