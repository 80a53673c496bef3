"""Where trainings lie, and that code is known again when it comes as one archive."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from star_ctr.conf.contracts.catalog import Warehouse
from star_ctr.conf.contracts.fingerprint import hash_code
from star_ctr.conf.errors import UserError
from star_ctr.conf.load import load
from tests.conftest import ROOT


def place(*overrides: str) -> str:
    return Warehouse(load("demo", overrides).paths).run_folder("run")


def test_trainings_lie_below_the_warehouse_or_where_they_are_told_to() -> None:
    assert place() == "warehouse/demo/models/run"
    assert place("paths.models=/mnt/models/") == "/mnt/models/run"
    assert place("paths.warehouse=s3a://bucket/ctr", "paths.models=/mnt/models") == "/mnt/models/run"


def test_a_warehouse_in_a_bucket_asks_for_a_folder_of_trainings() -> None:
    assert (
        Warehouse(load("demo", ["paths.warehouse=s3a://bucket/ctr"]).paths).table("split") == "s3a://bucket/ctr/split"
    )
    with pytest.raises(UserError, match=r"s3a://bucket/ctr/models: .* set paths.models"):
        place("paths.warehouse=s3a://bucket/ctr")


def test_code_in_an_archive_has_the_hash_of_its_files(tmp_path: Path) -> None:
    for room in ("conf", "model"):
        shutil.copytree(ROOT / room, tmp_path / "code/star_ctr" / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "star_ctr/__init__.py", tmp_path / "code/star_ctr")
    archive = shutil.make_archive(str(tmp_path / "star_ctr"), "zip", tmp_path / "code")
    program = (
        "from star_ctr.conf.contracts import fingerprint as f; print(f.__file__, f.hash_code(['star_ctr.model.train']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": archive}, cwd=tmp_path, capture_output=True, text=True, check=True
    )  # fmt: skip
    file, found = done.stdout.split()
    assert file.startswith(archive)
    assert found == hash_code(["star_ctr.model.train"])
