"""Benchmark: how incremental nights compare with models trained from scratch.

Simulates logs of several days, and runs a night for each day but the first: each continues from the model of the
previous night and trains on one day. Every night has a reference, which is trained from scratch on up to seven days.
Prints the metrics of each night minus those of its reference, with intervals, and the training times.

    python bench/incremental_nights.py [--rows 25000] [--days 9] [--set trainer.optimizer.lr=0.001]

Repeating the command reuses the nights that are up to date.
"""

from __future__ import annotations

import argparse
import datetime as dt
from typing import Any

from deltalake import DeltaTable
from rich.console import Console

from star_ctr.conf.contracts.dates import list_days
from star_ctr.conf.contracts.domains import OVERALL
from star_ctr.conf.contracts.run_id import make_reference_run_id, make_run_id
from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.delta_rows import read_rows
from star_ctr.jobs.registry.reference_gaps import read_gaps
from star_ctr.jobs.tools import simulate
from star_ctr.workflows import backfill
from star_ctr.workflows.spark_session import open_session
from star_ctr.workflows.terminal import make_table


def choose_settings(rows: int, days: int, overrides: list[str]) -> Settings:
    """Return the settings of the nights. The name of the folder contains the sizes of the logs."""
    folder = f"build/incremental-nights-{rows}-{days}"
    users, items = max(rows // 10, 100), max(rows // 40, 100)
    sizes = f"{{impressions: {rows * days}, days: {days}, first_day: 2026-01-05, users: {users}, items: {items}}}"
    nights = ["window.days=1", "split.vocabulary=grown", "trainer.warm_start=previous"]
    reference = "reference={every_nights: 1, window_days: 7}"
    paths = [f"paths.logs={folder}/logs", f"paths.warehouse={folder}/warehouse"]
    return load("demo", [*paths, f"simulate={sizes}", *nights, reference, *overrides])


def measure(settings: Settings) -> list[dict[str, Any]]:
    """Simulate the logs unless they exist, run the nights, and return a row per night."""
    assert settings.simulate is not None
    first = settings.simulate.first_day.isoformat()
    with open_session(settings, "incremental nights", writes=True, wait=False) as spark:
        if not DeltaTable.is_deltatable(f"{settings.paths.warehouse}/steps"):
            simulate.run(settings, spark)
        last = settings.simulate.first_day + dt.timedelta(days=settings.simulate.days - 1)
        nights = list_days(first, last.isoformat())[1:]
        backfill.run(settings, spark, nights[0], nights[-1])
    table = read_rows(f"{settings.paths.warehouse}/metrics", f"domain = '{OVERALL}'")
    metrics = {row["run_id"]: row for row in table}
    seconds = {row["run_id"]: row["seconds"] for row in read_rows(f"{settings.paths.warehouse}/runs")}
    runs = [make_run_id(settings, ds) for ds in nights]
    gaps = read_gaps(settings, {run: metrics[run]["attempt"] for run in runs})
    overall = {gap["run_id"]: gap for gap in gaps if gap["domain"] == OVERALL}
    return [_make_row(metrics[run], overall.get(run), seconds) for run in runs]


def _make_row(metrics: dict[str, Any], gap: dict[str, Any] | None, seconds: dict[str, float]) -> dict[str, Any]:
    run = metrics["run_id"]
    row = {"night": metrics["ds"], "GAUC": f"{metrics['gauc']:.4f}", "days": "–"}
    if gap is None:  # the first night is trained from scratch
        return row
    row["days"] = str(gap["training_days"])
    for name, key in (("GAUC", "gauc"), ("AUC", "auc"), ("PCOC", "pcoc"), ("log loss", "log_loss")):
        row[f"{name} gap"] = f"{gap[key]:+.4f} ({gap[f'{key}_low']:+.4f} to {gap[f'{key}_high']:+.4f})"
    return row | {"training (s)": f"{seconds[run]:.0f} / {seconds[make_reference_run_id(run)]:.0f}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=25_000, help="impressions per day")
    parser.add_argument("--days", type=int, default=9, help="days of the logs")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override of a setting")
    arguments = parser.parse_args()
    rows = measure(choose_settings(arguments.rows, arguments.days, arguments.set))
    Console(width=200).print(make_table(rows, list(rows[-1])))


if __name__ == "__main__":
    main()
