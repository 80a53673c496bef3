"""The Spark session of a command, with the lease of the warehouse and a log file if the command writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from star_ctr.conf.settings.root import Settings
from star_ctr.workflows.interrupts import raise_interrupts
from star_ctr.workflows.lease import hold_lease
from star_ctr.workflows.run_log import log_to_warehouse
from star_ctr.workflows.terminal import show_step

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@contextmanager
def open_session(settings: Settings, name: str, *, writes: bool = False, wait: bool = False) -> Iterator[SparkSession]:
    """Start Spark, and hold the lease of the warehouse inside the block if the command writes.

    Args:
        settings: The settings.
        name: Name of the command.
        writes: Whether the command writes to the warehouse, and therefore needs the lease and a log file.
        wait: Whether to wait for another process that holds the lease, instead of failing.

    Yields:
        The session. It is not stopped at the end of the block.

    Raises:
        UserError: Another process holds the lease, and `wait` is false; or Spark does not start.
    """
    from star_ctr.jobs.io.session import start

    with ExitStack() as stack:
        if writes:
            stack.enter_context(hold_lease(settings, wait))
            stack.enter_context(log_to_warehouse(settings, name))
        with show_step("spark", None):
            spark = start(settings, f"star-ctr {name}")
        with raise_interrupts():
            yield spark
