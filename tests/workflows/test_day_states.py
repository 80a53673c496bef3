"""Days that `status` lists: which would be computed, and why."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyspark.sql import SparkSession
from rich.console import Console

from star_ctr.conf.settings.root import Settings
from star_ctr.workflows import status
from star_ctr.workflows.nightly import run_step
from star_ctr.workflows.terminal import make_status_table
from tests.jobs.messy_logs import DAYS, DS, settings, views, write_days

Found = dict[tuple[str, str], str]


def list_days(conf: Settings, ds: str) -> Found:
    rows = [r for r in status.run(conf, ds, ds, 1) if r["days"]]
    assert {r["step"] for r in rows} <= {"ingest", "features"}
    return {(d["part"], d["day"]): d["reason"] for r in rows for d in r["days"]}


def list_all(parts: list[str], days: tuple[str, ...], reason: str) -> Found:
    return {(part, day): reason for part in parts for day in days}


LATER = ["features", "history", "labels"]


def test_a_new_warehouse_needs_all_days(tmp_path: Path) -> None:
    write_days(tmp_path, views())
    (tmp_path / "logs/views" / f"{DAYS[0]}.csv").unlink()
    found = list_days(settings(tmp_path), DS)
    assert set(found) == {(part, day) for part in ("ingest.impressions", *LATER) for day in DAYS[1:]}
    assert set(found.values()) == {"not ingested yet", "waits for ingest of this day"}


@pytest.mark.spark
def test_status_explains_which_days_are_computed_again(tmp_path: Path, spark: SparkSession) -> None:
    rows = views()
    write_days(tmp_path, rows)
    items = tmp_path / "logs/items.csv"
    pd.DataFrame({"sku": ["s1"], "category": ["c1"]}).to_csv(items, index=False)
    clicked = rows[rows["clk"] == 1].assign(at=lambda f: pd.to_datetime(f["at"]) + pd.Timedelta(seconds=5))
    (tmp_path / "logs/clicks").mkdir()
    for day, part in clicked.groupby("day"):
        part[["view", "at"]].to_csv(tmp_path / f"logs/clicks/{day}.csv", index=False)

    def load(**more: Any) -> Settings:
        return settings(
            tmp_path,
            {"duplicate_days": 0},
            logs={
                "items": {"path": "items.csv", "key": "sku"},
                "clicks": {"path": "clicks/{ds}.csv", "impression": "view",
                           "time": {"column": "at", "unit": "timestamp"}},
            },
            label={"window_hours": 24}, checks={"max_early_clicks": 1.0}, window={"days": 1}, **more,
        )  # fmt: skip

    conf = load()
    for step in ("ingest", "features"):
        run_step(conf, spark, step, DAYS[1], "requested")
    assert list_days(conf, DAYS[1]) == {}
    # The next night: its own day, and labels that are still open.
    logs = ["ingest.clicks", "ingest.impressions"]
    new = list_all(logs, (DS,), "not ingested yet") | list_all(LATER, (DS,), "waits for ingest of this day")
    assert list_days(conf, DS) == new | {("labels", DAYS[1]): "labels are still open"}
    run_step(conf, spark, "ingest", DS, "requested")
    computed = list_all(LATER, (DS,), "not computed yet")
    assert list_days(conf, DS) == computed | {("labels", DAYS[1]): "its impressions or clicks changed"}
    run_step(conf, spark, "features", DS, "requested")
    assert list_days(conf, DS) == {}
    # A changed file, settings, and rows.
    os.utime(tmp_path / f"logs/views/{DAYS[1]}.csv", (1, 1))
    found = list_days(conf, DS)
    assert found["ingest.impressions", DAYS[1]] == "log files changed"
    assert found["features", DAYS[1]] == found["history", DAYS[1]] == "waits for ingest of this day"
    assert found["features", DS] == f"waits for ingest of {DAYS[1]}"
    path = tmp_path / f"logs/views/{DAYS[1]}.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:40]))
    run_step(conf, spark, "ingest", DS, "requested")
    found = list_days(conf, DS)
    assert (found["history", DAYS[1]], found["features", DAYS[1]]) == ("its rows changed",) * 2
    assert (found["history", DS], found["features", DS]) == (
        "earlier rows or attributes changed", "an earlier day changed"
    )  # fmt: skip
    assert found["labels", DAYS[1]] == "its impressions or clicks changed"
    run_step(conf, spark, "features", DS, "requested")
    assert list_days(conf, DS) == {}
    found = list_days(load(state={"expire_days": 3}), DS)
    assert found == list_all(["features"], DAYS[1:], "settings changed") | list_all(
        ["history"], DAYS, "settings changed"
    )


def test_consecutive_days_share_a_line() -> None:
    days = [("features", day, "settings changed") for day in ("2026-02-28", "2026-03-01", "2026-03-03")]
    days += [("ingest.items", "all", "code changed")]
    names = ("part", "day", "reason")
    row = {"ds": DS, "step": "ingest", "state": "stale", "reason": "inputs changed: code",
           "days": [dict(zip(names, day, strict=True)) for day in days]}  # fmt: skip
    text = io.StringIO()
    Console(file=text, width=120).print(make_status_table([row]))
    lines = [line.split() for line in text.getvalue().splitlines()]
    assert [DS, "features", "2026-02-28", "to", "2026-03-01", "settings", "changed"] in lines
    assert [DS, "features", "2026-03-03", "settings", "changed"] in lines
    assert [DS, "ingest.items", "all", "code", "changed"] in lines
