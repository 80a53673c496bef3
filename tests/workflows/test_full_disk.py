"""A night on a full disk fails with a one-line message and can be run again."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from star_ctr.conf.errors import describe_full_storage
from star_ctr.conf.load import load
from star_ctr.workflows import status
from tests import small_logs
from tests.conftest import on_request

DS = small_logs.DAYS[-1]


def nested(inner: Exception) -> Exception:
    try:
        try:
            raise inner
        except Exception as error:
            raise RuntimeError("a job failed") from error
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("An error occurred while calling o1: java.io.IOException: No space left on device"),
        RuntimeError("Generic LocalFileSystem error: No space left on device (os error 28)"),
        nested(OSError(errno.ENOSPC, "full")),
    ],
)
def test_a_full_disk_is_recognized(error: Exception) -> None:
    assert "the storage is full; free some space" in str(describe_full_storage(error))


@pytest.mark.parametrize("error", [OSError(errno.ENOENT, "gone"), ValueError("28"), nested(ValueError("bad"))])
def test_other_errors_are_not_recognized(error: Exception) -> None:
    assert describe_full_storage(error) is None


Disk = Callable[[str], Path]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Mount a small file system, and change its size if it is already mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = False

    def resize(size: str) -> Path:
        nonlocal mounted
        options = f"{'remount,' if mounted else ''}size={size}"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=False)
        if done.returncode != 0:
            pytest.skip("needs permission to mount a file system")
        mounted = True
        return folder

    yield resize
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def nightly(conf: Path, warehouse: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "star_ctr.workflows.cli", "nightly", "--conf", str(conf), "--ds", DS]
    overrides = (f"paths.warehouse={warehouse}", "spark.master=local[2]", *overrides)
    words = [w for o in overrides for w in ("--set", o)]
    return subprocess.run(
        [*command, *words], capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"}
    )


@pytest.mark.slow
@on_request
@pytest.mark.skipif(os.geteuid() != 0, reason="needs permission to mount a file system")
def test_a_night_on_a_full_disk_can_be_run_again(tmp_path: Path, disk: Disk) -> None:
    conf = small_logs.write(tmp_path, small_logs.frames())
    done = nightly(conf, disk("900k"))
    assert done.returncode == 1, done.stderr
    assert "star-ctr: the storage is full; free some space" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert "Exception" not in done.stderr + done.stdout
    folder = disk("500m")
    done = nightly(conf, folder)
    assert done.returncode == 0, done.stderr
    settings = load(conf, [f"paths.warehouse={folder}"])
    assert {row["state"] for row in status.run(settings, DS, DS, 1)} == {"done"}
