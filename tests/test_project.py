"""Rules of the project: the direction of imports, the length of files, the content of the wheel, and help texts."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import PACKAGES, ROOT

MAY_IMPORT = {
    "conf": {"conf"},
    "features": {"features", "conf"},
    "model": {"model", "conf"},
    "jobs": {"jobs", "features", "model", "conf"},
    "workflows": set(PACKAGES),
}
FORBIDDEN = {
    "features": {"torch", "petastorm", "deltalake"},
    "model": {"pyspark", "delta"},
    "conf": {"torch", "pyspark"},
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_allowed_packages(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        names = imports(file)
        imported = {n.split(".")[1] for n in names if n.startswith("star_ctr.")} & set(PACKAGES)
        assert imported <= MAY_IMPORT[package], file
        assert not {n.split(".")[0] for n in names} & FORBIDDEN.get(package, set()), file


def test_only_the_dags_import_airflow() -> None:
    dags = ROOT / "workflows/airflow/dags"
    for file in (f for package in PACKAGES for f in (ROOT / package).rglob("*.py")):
        names = {n.split(".")[0] for n in imports(file)}
        assert names.isdisjoint({"star_ctr"} if file.is_relative_to(dags) else {"airflow"}), file


def test_files_have_at_most_300_lines() -> None:
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            assert len(file.read_text().splitlines()) <= 300, f"{file} is too long: split it"


def test_the_wheel_installs_one_package(tmp_path: Path) -> None:
    uv = str(Path(sys.executable).parent / "uv")
    subprocess.run(
        [uv, "build", "--wheel", "--no-build-isolation", "--python", sys.executable, "-q", "-o", str(tmp_path), str(ROOT)],
        check=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names if "dist-info" not in n} == {"star_ctr"}
    assert not [n for n in names if "/dags/" in n], "Airflow reads the DAG from the clone, with its own Python"
    assert {"star_ctr/jobs/train.py", "star_ctr/conf/kuairand.yaml", "star_ctr/features/point_in_time/scan.py"} <= set(
        names
    )
    assert "star_ctr/workflows/report/page.css" in names


def test_every_command_has_help() -> None:
    from typer.testing import CliRunner

    from star_ctr.workflows.cli import app

    for command in app.registered_commands:
        assert command.callback is not None
        result = CliRunner().invoke(app, [command.callback.__name__, "--help"])
        assert result.exit_code == 0
        assert "--conf" in result.output or command.callback.__name__ in ("schema", "steps")
