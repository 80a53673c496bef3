"""Whether a day's logs have come, told by their files' names."""

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


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def files(folder: str, *overrides: str, ds: str = DAY) -> dict[str, int]:
    return {f["log"]: f["files"] for f in ready.run(load("demo", [f"paths.logs={folder}", *overrides]), ds)}


def test_each_log_is_waited_for(tmp_path: Path) -> None:
    put(tmp_path, *UNDATED.values())
    for name, file in DATED.items():
        assert files(str(tmp_path))[name] == 0
        put(tmp_path, file.replace(DAY, "2026-01-05"))
        assert files(str(tmp_path))[name] == 0, "another day's file"
        put(tmp_path, file, file.replace("part-0", "part-1"))
        assert files(str(tmp_path))[name] == 2
    assert all(files(str(tmp_path)).values())
    assert files(str(tmp_path), ds="2026-01-07") == {
        "impressions": 0,
        "clicks": 0,
        "users": 0,
        "behaviours": 1,
        "items": 1,
    }


def test_a_day_without_dashes(tmp_path: Path) -> None:
    put(tmp_path, "views/20260106.parquet", "views/2026-01-07.parquet")
    path = "logs.impressions.path=views/{yyyymmdd}.parquet"
    assert files(str(tmp_path), path)["impressions"] == 1
    assert files(str(tmp_path), path, ds="2026-01-07")["impressions"] == 0


def test_a_folder_counts_once_it_holds_what_spark_reads(tmp_path: Path) -> None:
    path = "logs.impressions.path=views/ds={ds}"
    (tmp_path / f"views/ds={DAY}").mkdir(parents=True)
    put(tmp_path, f"views/ds={DAY}/_temporary/0/part-0.parquet", f"views/ds={DAY}/.part-0.parquet.crc")
    assert files(str(tmp_path), path)["impressions"] == 0
    put(tmp_path, f"views/ds={DAY}/hour=00/part-0.parquet")
    assert files(str(tmp_path), path)["impressions"] == 1


def test_object_stores_are_asked_anew_each_time() -> None:
    assert files("memory://logs")["impressions"] == 0
    with fsspec.open(f"memory://logs/{DATED['impressions']}", "wb") as file:
        file.write(b"rows")
    assert files("memory://logs")["impressions"] == 1


def test_a_store_that_nobody_knows_is_named() -> None:
    with pytest.raises(UserError, match=r"logs.impressions.path: nowhere://logs/.*Protocol not known: nowhere"):
        files("nowhere://logs")


def test_the_command_says_not_yet_by_its_exit_code(tmp_path: Path) -> None:
    def call(*more: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["ready", "--conf", "demo", "--set", f"paths.logs={tmp_path}", *more])
        return done.exit_code, done.stdout

    put(tmp_path, *DATED.values())
    code, out = call("--ds", DAY, "--json", "-")
    assert code == 75
    assert [f["log"] for f in json.loads(out) if not f["files"]] == ["behaviours", "items"]
    put(tmp_path, *UNDATED.values())
    assert call("--ds", DAY)[0] == 0
    assert call("--ds", "2026-1-6")[0] == 1


def test_a_store_that_does_not_answer_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ConnectionError("refused")

    monkeypatch.setattr(ready, "run", refuse)
    done = CliRunner().invoke(app, ["ready", "--conf", "demo", "--ds", DAY])
    assert done.exit_code == 75
