"""The journal of a warehouse: when each step of each night began, what its inputs were, and how it ended.

The journal is a Delta table (`steps`) that is read and written without Spark, so that `star-ctr status` takes a second.
An entry is added when a step begins and another when it ends. The entry of a step that was written last counts,
regardless of the hosts' clocks. A killed process leaves only its first entry, and releases the warehouse's lock.
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
from star_ctr.jobs.io.delta_rows import SEQUENCE, add_row, read_ordered_rows

_SCHEMA = pa.schema(
    [
        ("ds", pa.string()), ("step", pa.string()), ("run_id", pa.string()), ("state", pa.string()),
        ("at", pa.timestamp("us", "UTC")), ("seconds", pa.float64()), ("why", pa.string()), ("error", pa.string()),
        ("inputs", pa.string()), ("outputs", pa.string()), ("process", pa.string()),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A step's beginning or end.

    `run_id` is empty for the steps that all models share. `inputs`: hashes, by name, of all that decides what the
    step writes; equal ones mean equal contents. `outputs`: what it wrote, by table and day, as far as later steps ask.
    """

    ds: str
    step: str
    run_id: str
    state: str
    at: dt.datetime
    seconds: float | None = None
    why: str = ""
    error: str = ""
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    process: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What the entry is of: night, step, run."""
        return self.ds, self.step, self.run_id


class Journal:
    """The journal of the warehouse of some settings."""

    def __init__(self, settings: Settings) -> None:
        self.table = Warehouse(settings.paths).table("steps")

    def entries(self) -> list[Entry]:
        """Return all entries in the order in which they were written; empty if nothing has run yet."""
        read = {"inputs": json.loads, "outputs": json.loads}
        rows = read_ordered_rows(self.table)
        return [Entry(**{k: read[k](v) if k in read else v for k, v in row.items() if k != SEQUENCE}) for row in rows]

    def add(self, entry: Entry) -> None:
        """Write an entry."""
        row = {**asdict(entry), "inputs": json.dumps(entry.inputs), "outputs": json.dumps(entry.outputs)}
        add_row(self.table, row, _SCHEMA)

    @contextmanager
    def record_step(
        self, ds: str, step: str, run_id: str, inputs: dict[str, str], why: str, outputs: Callable[[], dict[str, Any]]
    ) -> Iterator[None]:
        """Write down that a step begins, and how it ended; `outputs` is asked for at a good end."""
        process = f"{socket.gethostname()}:{os.getpid()}"
        began = time.monotonic()

        def note(state: str, **more: Any) -> None:
            now = dt.datetime.now(dt.UTC)
            self.add(Entry(ds, step, run_id, state, now, why=why, inputs=inputs, process=process, **more))

        note("running")
        try:
            yield
        except BaseException as error:
            # This fails, too, if the disk is full. The step then counts as killed, and the original error is raised.
            with suppress(Exception):
                note("failed", seconds=time.monotonic() - began, error=f"{type(error).__name__}: {error}"[:2000])
            raise
        seconds = time.monotonic() - began
        note("done", seconds=seconds, outputs=outputs())
