"""Descriptions of a night's data that need no Spark."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from deltalake import write_deltalake

from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.quality.day_checks import describe_unread_days


def configure(folder: Path, *overrides: str) -> Settings:
    paths = (f"paths.logs={folder}/logs", f"paths.warehouse={folder}/warehouse", "window.days=2")
    return load("demo", [*paths, *overrides])


def test_the_first_night_names_earlier_days_that_are_not_in_the_history(tmp_path: Path) -> None:
    settings = configure(tmp_path)
    for day in ("2026-01-01", "2026-01-03", "2026-01-04", "2026-01-05", "2026-01-06"):
        folder = tmp_path / "logs" / "impressions" / f"ds={day}"
        folder.mkdir(parents=True)
        (folder / "part.parquet").touch()

    def ingest(day: str) -> None:
        write_deltalake(
            f"{tmp_path}/warehouse/impressions", pa.table({"ds": [day], "x": [1]}), mode="append", partition_by="ds"
        )

    for day in ("2026-01-03", "2026-01-04", "2026-01-05"):
        ingest(day)
    [line] = describe_unread_days(settings, "2026-01-05")
    assert line.startswith("the history begins on 2026-01-03, but the logs begin on 2026-01-01; ")
    assert "`star-ctr ingest --ds 2026-01-05 --set window.days=4`" in line
    ingest("2026-01-06")
    assert describe_unread_days(settings, "2026-01-06") == [], "a later night"
    assert describe_unread_days(configure(tmp_path, "window.days=30"), "2026-01-06") == [], "the window has all days"
