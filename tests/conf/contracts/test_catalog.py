"""The folder of a run, and the hash of code in an archive."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from star_ctr.conf.contracts.catalog import Warehouse
from star_ctr.conf.contracts.fingerprint import hash_code
from star_ctr.conf.load import load
from tests.conftest import ROOT


def find_run_folder(*overrides: str) -> str:
    return Warehouse(load("demo", overrides).paths).run_folder("run")


def test_trainings_are_below_the_warehouse_or_in_paths_models() -> None:
    assert find_run_folder() == "warehouse/demo/models/run"
    assert find_run_folder("paths.models=/mnt/models/") == "/mnt/models/run"
    assert find_run_folder("paths.warehouse=s3a://bucket/ctr", "paths.models=/mnt/models") == "/mnt/models/run"


def test_tables_and_runs_may_be_in_a_bucket() -> None:
    paths = load("demo", ["paths.warehouse=s3a://bucket/ctr"]).paths
    assert Warehouse(paths).table("split") == "s3a://bucket/ctr/split"
    assert find_run_folder("paths.warehouse=s3a://bucket/ctr") == "s3a://bucket/ctr/models/run"


def test_code_in_an_archive_has_the_hash_of_its_files(tmp_path: Path) -> None:
    for package in ("conf", "model"):
        shutil.copytree(
            ROOT / package, tmp_path / "code/star_ctr" / package, ignore=shutil.ignore_patterns("__pycache__")
        )
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
