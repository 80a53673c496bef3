"""Commands that only read a warehouse need no write permission."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from star_ctr.conf.contracts.catalog import Warehouse
from star_ctr.jobs.registry.decisions import Decisions
from tests.published import publish
from tests.workflows.synthetic_nights import NIGHTS, SyntheticNights

READ_ONLY = """
import os, sys
root = os.path.realpath(sys.argv.pop(1))

def reject_write(event, arguments):
    changes = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.utime", "os.truncate", "os.link", "os.symlink")
    writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    if (writes or event in changes) and isinstance(arguments[0], (str, bytes)):
        if os.path.realpath(os.fsdecode(arguments[0])).startswith(root):
            raise PermissionError(13, "read-only", arguments[0])

sys.addaudithook(reject_write)
from star_ctr.workflows.cli import main
main()
"""


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> SyntheticNights:
    nights = SyntheticNights(tmp_path_factory.mktemp("warehouse"))
    nights.nights()
    for ds in NIGHTS:
        publish(nights.settings, nights.run(ds), ds)
    return nights


def list_modification_times(folder: Path) -> dict[str, int]:
    return {str(f): f.stat().st_mtime_ns for f in folder.rglob("*") if f.is_file()}


@pytest.mark.parametrize(
    "command", [["status"], ["report"], ["serving"], ["metrics"], ["verify"], ["verify", "--all"], ["clean"]]
)
def test_a_reader_changes_nothing(warehouse: SyntheticNights, tmp_path: Path, command: list[str]) -> None:
    before = list_modification_times(warehouse.folder)
    words = [*command, "--conf", "demo", "--set", f"paths.warehouse={warehouse.folder}"]
    words += ["--out", str(tmp_path / "page.html")] if command == ["report"] else []
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY, str(warehouse.folder), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list_modification_times(warehouse.folder) == before


def test_the_audit_hook_rejects_a_writer(warehouse: SyntheticNights) -> None:
    assert Decisions(warehouse.settings).read_all()
    words = ["rollback", "--reason", "x", "--conf", "demo", "--set", f"paths.warehouse={warehouse.folder}"]
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY, str(warehouse.folder), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "read-only" in done.stderr
    assert Warehouse(warehouse.settings.paths).list_finished_runs()
