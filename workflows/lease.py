"""The lease: at most one process on any host writes to a warehouse at a time.

1. A process takes or releases the lease by adding a row to the Delta table `lease`. The commit fails if another process
   has added a row since the table was read. Only one process gets the lease, on any storage that Delta supports.
2. The holder updates a heartbeat file every few seconds.
3. Another process takes over the lease if the holder is dead. On the same machine, this means that the process of the
   holder has exited. On another machine, it means that the heartbeat has not changed for a minute. The waiting process
   measures this minute itself, so that the clocks of the hosts need not agree.
4. A holder that has lost the lease kills itself.

After a crash on another machine, the next writer must therefore wait for a minute.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa

from star_ctr.conf.contracts.catalog import Warehouse
from star_ctr.conf.errors import UserError
from star_ctr.conf.redaction import format_command
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.delta_rows import SEQUENCE, SupersededError, add_row, describe_schema, read_ordered_rows

TAKEN, RELEASED = "taken", "released"
"""Values of the column `event`."""
_logger = logging.getLogger(__name__)

_SCHEMA = describe_schema(
    "lease",
    [
        ("at", pa.timestamp("us", "UTC")), ("event", pa.string()), ("holder", pa.string()), ("machine", pa.string()),
        ("host", pa.string()), ("pid", pa.int64()), ("started", pa.string()), ("command", pa.string()),
    ],
)  # fmt: skip
_HEARTBEAT_SECONDS = 5.0
"""Interval between heartbeats."""
_TIMEOUT_SECONDS = 60.0
"""Time without a heartbeat after which a holder on another machine counts as dead."""
_MIN_WAIT_SECONDS = 1.0
"""Time for which a process waits for a held lease before it fails, even without `wait`."""


@contextmanager
def hold_lease(settings: Settings, wait: bool = False) -> Iterator[None]:
    """Hold the lease of the warehouse inside the block.

    Args:
        settings: The settings, with the warehouse.
        wait: Whether to wait for another holder instead of failing.

    Raises:
        UserError: Another process holds the lease, and `wait` is false.
    """
    lease = _Lease(Warehouse(settings.paths))
    lease.acquire(wait)
    with lease.keep_alive():
        yield


def is_held(settings: Settings) -> bool:
    """Return whether a process holds the lease. Writes nothing; a holder on another machine counts as alive."""
    last = _read_last_row(Warehouse(settings.paths).table("lease"))
    return last is not None and last["event"] == TAKEN and not _has_exited(last)


class _Lease:
    """The lease of a warehouse, as this process takes, renews and releases it."""

    def __init__(self, warehouse: Warehouse) -> None:
        self.table, self.root = warehouse.table("lease"), warehouse.root
        command = format_command(sys.argv)
        self.identity: dict[str, Any] = {
            "holder": uuid.uuid4().hex, "machine": _identify_machine(), "host": socket.gethostname(),
            "pid": os.getpid(), "started": _get_start_time(os.getpid()), "command": command,
        }  # fmt: skip
        self._sequence, self._renewed = -1, 0.0

    def acquire(self, wait: bool) -> None:
        """Take the lease as soon as it is free or its holder is dead.

        Raises:
            UserError: The holder is alive, and `wait` is false.
        """
        start, monitor = time.monotonic(), _HolderMonitor(self.root)
        while True:
            last = _read_last_row(self.table)
            if last is None or last["event"] == RELEASED or _has_exited(last) or monitor.is_dead(last):
                # Create the heartbeat before taking the lease, because a missing one counts as dead after a minute.
                heartbeat = _Heartbeat(self.root, self.identity["holder"])
                heartbeat.create()
                if self._add(TAKEN, last[SEQUENCE] if last else -1):
                    if last is not None and last["event"] != RELEASED:
                        _logger.warning("%s: took over the lease of %s, which is dead", self.root, last["command"])
                    if last is not None:
                        _Heartbeat(self.root, last["holder"]).delete()
                    return
                heartbeat.delete()
                continue
            # Give a holder on another machine time to show a heartbeat.
            is_known_alive = last["machine"] == self.identity["machine"] or monitor.is_alive
            if not wait and is_known_alive and time.monotonic() - start > _MIN_WAIT_SECONDS:
                raise UserError(
                    f"{self.root}: process {last['pid']} on {last['host']} (`{last['command']}`, since "
                    f"{last['at']:%Y-%m-%d %H:%M:%S}) is writing to it; wait until it is done, or pass --wait"
                )
            time.sleep(0.2)

    @contextmanager
    def keep_alive(self) -> Iterator[None]:
        """Renew the lease inside the block, and release it at the end."""
        stop = threading.Event()
        self._renewed = _get_elapsed()
        # Two threads, because a call to the storage may hang while the lease expires.
        threads = [
            threading.Thread(target=target, args=(stop,), name="lease", daemon=True)
            for target in (self._renew, self._watch)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            with suppress(Exception):  # for example, if the disk is full; the lease is free once this process exits
                self._add(RELEASED, self._sequence)
            _Heartbeat(self.root, self.identity["holder"]).delete()

    def _renew(self, stop: threading.Event) -> None:
        """Update the heartbeat until `stop` is set; kill this process if another one has taken over the lease."""
        heartbeat = _Heartbeat(self.root, self.identity["holder"])
        while not stop.wait(_HEARTBEAT_SECONDS):
            changed = False
            with suppress(Exception):  # the storage may recover before the lease expires
                heartbeat.change()
                changed = True
            # `change` also fails if another process has taken over the lease and deleted the file. The table shows it.
            with suppress(Exception):
                last = _read_last_row(self.table)
                if last is None or last["holder"] != self.identity["holder"]:
                    self._abort()
                if changed:
                    self._renewed = _get_elapsed()

    def _watch(self, stop: threading.Event) -> None:
        """Kill this process if its lease was not renewed and is about to expire. Makes no call that can hang."""
        while not stop.wait(min(1.0, _HEARTBEAT_SECONDS)):
            if _get_elapsed() - self._renewed > _TIMEOUT_SECONDS - 2 * _HEARTBEAT_SECONDS:
                self._abort()

    def _abort(self) -> None:
        """Kill this process immediately, because another process may write to the warehouse."""
        message = f"{self.root}: this process did not renew its lease in time and lost it; run the command again\n"
        os.write(2, message.encode())
        os.kill(os.getpid(), signal.SIGKILL)

    def _add(self, event: str, after: int) -> bool:
        """Add a row to the table.

        Args:
            event: `TAKEN` or `RELEASED`.
            after: Sequence number that the last row must have; -1 if the table must be empty.

        Returns:
            Whether the row was added; False if another process has added a row.
        """
        row = {"at": dt.datetime.now(dt.UTC), "event": event, **self.identity}
        try:
            self._sequence = add_row(self.table, row, _SCHEMA, after)
        except SupersededError:
            return False
        return True


class _Heartbeat:
    """A file that the holder of the lease changes regularly while it is alive."""

    def __init__(self, root: str, holder: str) -> None:
        self._file = f"{root}/lease-{holder}.pulse"
        self._fs, self._path = fsspec.core.url_to_fs(self._file)
        self._is_local, self._beats = "://" not in root, 0

    def create(self) -> None:
        """Create the file."""
        self._fs.makedirs(self._fs._parent(self._path), exist_ok=True)
        self._fs.pipe_file(self._path, b"0")

    def change(self) -> None:
        """Change the modification time of a local file, or the content of one in an object store."""
        self._beats += 1
        if self._is_local:
            os.utime(self._path)  # works even if the disk is full
        else:
            self._fs.pipe_file(self._path, str(self._beats).encode())

    def read(self) -> str:
        """Return a value that differs after each change; empty if the file does not exist."""
        try:
            if not self._is_local:
                return str(self._fs.cat_file(self._path))
            with Path(self._path).open("rb") as file:  # NFS refreshes its attributes when a file is opened
                return str(os.fstat(file.fileno()).st_mtime_ns)
        except OSError:
            return ""

    def delete(self) -> None:
        """Delete the file, if it exists."""
        with suppress(OSError):
            self._fs.rm_file(self._path)


class _HolderMonitor:
    """The heartbeat of the holder, as a waiting process observes it."""

    def __init__(self, root: str) -> None:
        self._root, self._holder, self._value, self._since = root, "", "", 0.0
        self.is_alive = False

    def is_dead(self, last: dict[str, Any]) -> bool:
        """Return whether the heartbeat of the holder has not changed for `_TIMEOUT_SECONDS`.

        Also sets `is_alive` to whether it has changed since the first call for this holder.

        Args:
            last: The last row of the table `lease`.
        """
        heartbeat = _Heartbeat(self._root, last["holder"]).read()
        if last["holder"] != self._holder:
            self._holder, self._value, self._since, self.is_alive = last["holder"], heartbeat, time.monotonic(), False
        elif heartbeat != self._value:
            self._value, self._since, self.is_alive = heartbeat, time.monotonic(), True
        return time.monotonic() - self._since > _TIMEOUT_SECONDS


def _get_elapsed() -> float:
    """Return the seconds since an arbitrary point in time, including time in which the machine was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _read_last_row(table: str) -> dict[str, Any] | None:
    """Return the last row of the table `lease`; None if there is none."""
    rows = read_ordered_rows(table)
    return rows[-1] if rows else None


def _has_exited(last: dict[str, Any]) -> bool:
    """Return whether the holder ran on this machine and its process has exited."""
    return bool(last["machine"] == _identify_machine() and _get_start_time(last["pid"]) != last["started"])


def _identify_machine() -> str:
    """Return an id of the machine: on Linux, of its boot and the PID namespace, which differs between containers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode()}"


def _get_start_time(pid: int) -> str:
    """Return the start time of a process on this machine; empty if there is no such process.

    Process ids are reused, so the start time is needed to identify a process.
    """
    try:
        # Skip the command name, which may contain spaces. The start time is field 22 of the line.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if state == "Z" else fields[18]
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "" if Path("/proc/self/stat").exists() else "running"
