"""The journal of a warehouse: when each step of each night started, its inputs, and how it ended.

The journal is the Delta table `steps`. It is read and written without Spark, so that `star-ctr status` takes about a
second. A step adds one entry when it starts and another when it ends. The last entry of a step in commit order
counts, so the clocks of the hosts do not matter.

If a process is killed, its step has only the first entry. The step is not mistaken for a running one, because no
process holds the lease of the warehouse.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from star_ctr.conf.contracts.catalog import Warehouse
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.delta_rows import SEQUENCE, add_row, describe_schema, read_ordered_rows
from star_ctr.jobs.io.external_errors import format_error

_SCHEMA = describe_schema(
    "steps",
    [
        ("ds", pa.string()), ("step", pa.string()), ("run_id", pa.string()), ("state", pa.string()),
        ("at", pa.timestamp("us", "UTC")), ("seconds", pa.float64()), ("reason", pa.string()), ("error", pa.string()),
        ("inputs", pa.string()), ("outputs", pa.string()), ("process", pa.string()),
    ],
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """The start or the end of a step.

    Attributes:
        ds: The night.
        step: Name of the step.
        run_id: The run that the step belongs to; empty for steps that all runs share.
        state: `running`, `done`, `failed`, `interrupted` (by Ctrl-C), or `removed` (`star-ctr clean` deleted the
            results).
        at: Time of the entry in UTC.
        seconds: Duration of the step; None unless it has ended.
        reason: Why the step was run.
        error: Type and message of the error if the step failed, at most 2,000 characters.
        inputs: Input fingerprint: hashes of everything that determines the results, by name. Equal fingerprints mean
            equal results.
        outputs: Output hashes by table and day. Only `ingest` has them, because later steps depend on them.
        process: Host and process id, as in `host:1234`.
    """

    ds: str
    step: str
    run_id: str
    state: str
    at: dt.datetime
    seconds: float | None = None
    reason: str = ""
    error: str = ""
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    process: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """Night, step and run, which identify what the entry is about."""
        return self.ds, self.step, self.run_id


class Journal:
    """The journal of the warehouse in `paths.warehouse`."""

    def __init__(self, settings: Settings) -> None:
        self.table = Warehouse(settings.paths).table("steps")

    def read_entries(self) -> list[Entry]:
        """Return all entries in commit order; empty if no step has run yet."""
        parsers = {"inputs": json.loads, "outputs": json.loads}
        rows = read_ordered_rows(self.table, _SCHEMA)
        return [
            Entry(**{k: parsers[k](v) if k in parsers else v for k, v in row.items() if k != SEQUENCE}) for row in rows
        ]

    def add(self, entry: Entry) -> None:
        """Append an entry."""
        row = {**asdict(entry), "inputs": json.dumps(entry.inputs), "outputs": json.dumps(entry.outputs)}
        add_row(self.table, row, _SCHEMA)

    @contextmanager
    def record_step(
        self,
        ds: str,
        step: str,
        run_id: str,
        inputs: dict[str, str],
        reason: str,
        outputs: Callable[[], dict[str, Any]],
    ) -> Iterator[None]:
        """Add an entry when the block starts, and another when it ends or raises an error.

        Args:
            ds: The night.
            step: Name of the step.
            run_id: The run that the step belongs to; empty for steps that all runs share.
            inputs: Input fingerprint of the step.
            reason: Why the step is run.
            outputs: Called after the block has succeeded; returns the output hashes by table and day.
        """
        process = f"{socket.gethostname()}:{os.getpid()}"
        start = time.monotonic()

        def add_entry(state: str, **more: Any) -> None:
            now = dt.datetime.now(dt.UTC)
            self.add(Entry(ds, step, run_id, state, now, reason=reason, inputs=inputs, process=process, **more))

        add_entry("running")
        try:
            yield
        except BaseException as error:
            # This fails, too, if the disk is full. The step then counts as killed, and the original error is raised.
            state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            with suppress(Exception):
                add_entry(state, seconds=time.monotonic() - start, error=_describe(error)[:2000])
            raise
        seconds = time.monotonic() - start
        add_entry("done", seconds=seconds, outputs=outputs())


def _describe(error: BaseException) -> str:
    """Return the message of an error, without the tracebacks of other libraries."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped with Ctrl-C"
    return format_error(error) or f"{type(error).__name__}: {error}"
