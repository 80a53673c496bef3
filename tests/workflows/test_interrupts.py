"""Ctrl-C: the step counts as interrupted, the lease is released, and no traceback is shown."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from py4j.protocol import Py4JError

from star_ctr.conf.load import load
from star_ctr.workflows.interrupts import raise_interrupts
from star_ctr.workflows.journal import Journal
from star_ctr.workflows.lease import is_held
from tests import small_logs
from tests.conftest import INTERPRETED

DS = small_logs.DAYS[-1]


def fail(interrupted: bool) -> None:
    """Fail as a call to Spark does, with or without Ctrl-C."""
    try:
        if interrupted:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    except KeyboardInterrupt:
        pass
    raise Py4JError("An error occurred while calling o1.save")


def test_an_error_of_an_interrupted_call_is_an_interrupt() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), raise_interrupts():
        fail(interrupted=True)
    with pytest.raises(Py4JError), raise_interrupts():
        fail(interrupted=False)
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_may_run_steps() -> None:
    done: list[int] = []

    def run() -> None:
        with raise_interrupts():
            done.append(1)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert done == [1]


@pytest.mark.spark
@pytest.mark.slow
def test_an_interrupted_step_is_shown_as_such(tmp_path: Path) -> None:
    conf = small_logs.write(tmp_path, small_logs.frames())
    settings = load(conf)
    command = [
        sys.executable,
        "-m",
        "star_ctr.workflows.cli",
        "nightly",
        "--conf",
        str(conf),
        "--ds",
        DS,
        "--set",
        INTERPRETED,
    ]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        # Shells start background processes with SIGINT ignored, and Python then ignores it too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    until = time.monotonic() + 300
    while not any(entry.state == "running" for entry in Journal(settings).read_entries()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.2)
    time.sleep(3)  # Spark is at work
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the JVM too
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "ingest     interrupted after" in output
    assert "Traceback" not in output
    assert "error occurred" not in output
    assert f"The night of {DS} stopped in the step ingest." in output
    assert f"To continue: star-ctr backfill --conf {conf}" in output
    assert Journal(settings).read_entries()[-1].state == "interrupted"
    assert not is_held(settings)
