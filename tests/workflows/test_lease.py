"""The lease: one writer at a time, on one or several machines, including after real kills."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from star_ctr.conf.errors import UserError
from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings
from star_ctr.workflows import lease
from star_ctr.workflows.lease import hold_lease, is_held

WRITER = """
import datetime as dt, sys, time
from pathlib import Path
from star_ctr.conf.load import load
from star_ctr.workflows import lease
root, machine, skew, act = sys.argv[1:5]
lease._HEARTBEAT_SECONDS, lease._TIMEOUT_SECONDS = 0.1, 1.5
if machine != "here":
    lease._identify_machine = lambda: machine

class Skewed(dt.datetime):
    @classmethod
    def now(cls, tz=None):
        return dt.datetime.now(tz) + dt.timedelta(seconds=float(skew))

lease.dt = type("dt", (), {"datetime": Skewed, "UTC": dt.UTC})
settings = load("demo", [f"paths.warehouse={root}"])
number = Path(sys.argv[6])
for _ in range(int(sys.argv[5])):
    with lease.hold_lease(settings, wait=True):
        print("holds the lease", flush=True)
        if act == "hold":
            time.sleep(1000)
        value = int(number.read_text())
        time.sleep(0.01)
        number.write_text(str(value + 1))
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(lease, "_HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(lease, "_TIMEOUT_SECONDS", 1.5)
    (tmp_path / "number").write_text("0")
    return load("demo", [f"paths.warehouse={tmp_path}"])


def writer(
    settings: Settings,
    machine: str = "here",
    act: str = "count",
    times: int = 1,
    skew: float = 0.0,
    number: str | None = None,
) -> subprocess.Popen[str]:
    """Start a process that holds the lease, or increments a number under it."""
    root = settings.paths.warehouse
    arguments = [root, machine, str(skew), act, str(times), number or f"{root}/number"]
    command = [sys.executable, "-c", WRITER, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def holder(settings: Settings, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lease, here or on another machine."""
    process = writer(settings, request.param, "hold", skew=-90)
    assert process.stdout is not None
    assert process.stdout.readline() == "holds the lease\n"
    yield process
    process.kill()
    process.communicate()


def test_writers_on_two_machines_exclude_each_other(settings: Settings) -> None:
    times = 6
    processes = [writer(settings, f"machine-{k % 2}", times=times, skew=90.0 * k) for k in range(4)]
    for process in processes:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
    assert (Path(settings.paths.warehouse) / "number").read_text() == str(4 * times)
    assert not is_held(settings)
    assert not list(Path(settings.paths.warehouse).glob("*.pulse"))


def test_writers_to_an_object_store_exclude_each_other(bucket: str, tmp_path: Path) -> None:
    number, settings = tmp_path / "number", load("demo", [f"paths.warehouse={bucket}/shop"])
    number.write_text("0")
    processes = [writer(settings, f"machine-{k}", times=3, number=str(number)) for k in range(2)]
    for process in processes:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
    assert number.read_text() == "6"


@pytest.mark.parametrize("holder", ["here", "elsewhere"], indirect=True)
def test_the_error_of_a_second_writer_names_the_holder(settings: Settings, holder: subprocess.Popen[str]) -> None:
    assert is_held(settings)
    with pytest.raises(UserError, match=rf"process {holder.pid} on .* is writing to it; wait"), hold_lease(settings):
        pass
    assert holder.poll() is None


@pytest.mark.parametrize("holder", ["here"], indirect=True)
def test_the_lease_of_a_killed_writer_on_this_machine_is_taken_over_immediately(
    settings: Settings, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_TIMEOUT_SECONDS", 1000.0)
    holder.kill()  # stays a zombie, as under a parent that does not wait for it
    time.sleep(0.1)
    assert not is_held(settings)
    with hold_lease(settings):
        assert is_held(settings)
    assert not is_held(settings)


@pytest.mark.parametrize("holder", ["elsewhere"], indirect=True)
def test_the_lease_of_a_killed_writer_on_another_machine_is_taken_over_after_the_timeout(
    settings: Settings, holder: subprocess.Popen[str]
) -> None:
    holder.kill()
    start = time.monotonic()
    with hold_lease(settings):
        assert time.monotonic() - start > lease._TIMEOUT_SECONDS
        assert is_held(settings)


@pytest.mark.parametrize("holder", ["elsewhere"], indirect=True)
def test_a_writer_that_lost_the_lease_kills_itself(settings: Settings, holder: subprocess.Popen[str]) -> None:
    """A resumed process must not write next to the one that took over its lease."""
    holder.send_signal(signal.SIGSTOP)
    with hold_lease(settings):
        holder.send_signal(signal.SIGCONT)
        _, stderr = holder.communicate(timeout=30)
        assert holder.returncode == -signal.SIGKILL
        assert "did not renew its lease in time" in stderr
        assert is_held(settings)
    assert not is_held(settings)


def test_a_reused_process_id_is_not_the_holder(settings: Settings) -> None:
    with hold_lease(settings):
        last = lease._read_last_row(f"{settings.paths.warehouse}/lease")
        assert last is not None
        assert not lease._has_exited(last)
        assert lease._has_exited({**last, "started": "1"})
        assert not lease._has_exited({**last, "started": "1", "machine": "elsewhere"}), "unknown for another machine"


def test_is_held_writes_nothing(settings: Settings) -> None:
    assert not is_held(settings)
    assert [path.name for path in Path(settings.paths.warehouse).iterdir()] == ["number"]


def test_the_lease_is_released_after_an_error(settings: Settings) -> None:
    with pytest.raises(ZeroDivisionError), hold_lease(settings):
        raise ZeroDivisionError
    assert not is_held(settings)
    events = [row["event"] for row in lease.read_ordered_rows(f"{settings.paths.warehouse}/lease")]
    assert json.dumps(events) == '["taken", "released"]'


HANGING = """
import sys, threading, time
from star_ctr.conf.load import load
from star_ctr.workflows import lease
lease._HEARTBEAT_SECONDS, lease._TIMEOUT_SECONDS = 0.1, 1.5
settings = load("demo", [f"paths.warehouse={sys.argv[1]}"])
with lease.hold_lease(settings):
    lease._Heartbeat.change = lambda self: time.sleep(1000)
    time.sleep(1000)
"""


def test_a_writer_whose_storage_hangs_ends_before_its_lease_expires(settings: Settings) -> None:
    start = time.monotonic()
    command = [sys.executable, "-c", HANGING, settings.paths.warehouse]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert "did not renew its lease in time" in done.stderr
    assert time.monotonic() - start < 60


def test_a_writer_without_its_heartbeat_checks_the_lease(settings: Settings) -> None:
    """A process that takes over the lease deletes the heartbeat of a suspended machine, which then resumes."""
    process = writer(settings, "elsewhere", "hold")
    assert process.stdout is not None
    assert process.stdout.readline() == "holds the lease\n"
    last = lease._read_last_row(f"{settings.paths.warehouse}/lease")
    assert last is not None
    row = {**last, "holder": "another", "machine": "third"}
    lease.add_row(f"{settings.paths.warehouse}/lease", row, lease._SCHEMA, last[lease.SEQUENCE])
    next(Path(settings.paths.warehouse).glob("lease-*.pulse")).unlink()
    start = time.monotonic()
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    assert time.monotonic() - start < lease._TIMEOUT_SECONDS
