"""The `ready` command: whether the log files of a day exist."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec
import pytest
from typer.testing import CliRunner

from star_ctr.conf.errors import UserError
from star_ctr.conf.load import load
from star_ctr.jobs.tools import ready
from star_ctr.workflows.cli import app

DAY = "2026-01-06"
DATED = {
    "impressions": f"impressions/ds={DAY}/part-0.parquet",
    "clicks": f"clicks/ds={DAY}/part-0.json.gz",
    "users": f"users/ds={DAY}/part-0.parquet",
}
UNDATED = {"behaviours": "behaviours/all.parquet", "items": "items/all.parquet"}


def create(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def count_files(folder: str, *overrides: str, ds: str = DAY) -> dict[str, int]:
    return {f["log"]: f["files"] for f in ready.run(load("demo", [f"paths.logs={folder}", *overrides]), ds)}


def test_files_of_each_log_are_counted(tmp_path: Path) -> None:
    create(tmp_path, *UNDATED.values())
    for name, file in DATED.items():
        assert count_files(str(tmp_path))[name] == 0
        create(tmp_path, file.replace(DAY, "2026-01-05"))
        assert count_files(str(tmp_path))[name] == 0, "another day's file"
        create(tmp_path, file, file.replace("part-0", "part-1"))
        assert count_files(str(tmp_path))[name] == 2
    assert all(count_files(str(tmp_path)).values())
    assert count_files(str(tmp_path), ds="2026-01-07") == {
        "impressions": 0,
        "clicks": 0,
        "users": 0,
        "behaviours": 1,
        "items": 1,
    }


def test_a_day_without_dashes(tmp_path: Path) -> None:
    create(tmp_path, "views/20260106.parquet", "views/2026-01-07.parquet")
    path = "logs.impressions.path=views/{yyyymmdd}.parquet"
    assert count_files(str(tmp_path), path)["impressions"] == 1
    assert count_files(str(tmp_path), path, ds="2026-01-07")["impressions"] == 0


def test_a_folder_counts_only_if_it_has_files_that_spark_reads(tmp_path: Path) -> None:
    path = "logs.impressions.path=views/ds={ds}"
    (tmp_path / f"views/ds={DAY}").mkdir(parents=True)
    create(tmp_path, f"views/ds={DAY}/_temporary/0/part-0.parquet", f"views/ds={DAY}/.part-0.parquet.crc")
    assert count_files(str(tmp_path), path)["impressions"] == 0
    create(tmp_path, f"views/ds={DAY}/hour=00/part-0.parquet")
    assert count_files(str(tmp_path), path)["impressions"] == 1


def test_listings_of_object_stores_are_not_cached() -> None:
    assert count_files("memory://logs")["impressions"] == 0
    with fsspec.open(f"memory://logs/{DATED['impressions']}", "wb") as file:
        file.write(b"rows")
    assert count_files("memory://logs")["impressions"] == 1


def test_an_unknown_protocol_is_rejected() -> None:
    with pytest.raises(UserError, match=r"logs.impressions.path: nowhere://logs/.*Protocol not known: nowhere"):
        count_files("nowhere://logs")


def test_the_exit_code_of_the_command_is_75_until_all_files_exist(tmp_path: Path) -> None:
    def call(*more: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["ready", "--conf", "demo", "--set", f"paths.logs={tmp_path}", *more])
        return done.exit_code, done.stdout

    create(tmp_path, *DATED.values())
    code, out = call("--ds", DAY, "--json", "-")
    assert code == 75
    assert [f["log"] for f in json.loads(out) if not f["files"]] == ["behaviours", "items"]
    create(tmp_path, *UNDATED.values())
    assert call("--ds", DAY)[0] == 0
    assert call("--ds", "2026-1-6")[0] == 1


def test_the_exit_code_is_75_if_the_store_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_connection_error(*_: object) -> None:
        raise ConnectionError("refused")

    monkeypatch.setattr(ready, "run", raise_connection_error)
    done = CliRunner().invoke(app, ["ready", "--conf", "demo", "--ds", DAY])
    assert done.exit_code == 75
