"""Benchmark: all steps of a night on 5 million simulated rows, with a driver of 1 GiB.

Checks that many rows need no larger driver. Simulates two days, runs the night with `spark.driver.maxResultSize=16m`,
and checks the ledger: every simulated row must come out of every step.

    python bench/size.py [--rows 5000000]
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.dataset as pads
from deltalake import DeltaTable

SMALL_DRIVER = (
    "spark.master=local[2]",
    "spark.driver_memory=1g",
    "spark.shuffle_partitions=32",
    "spark.conf={spark.driver.maxResultSize: 16m}",
)
"""Overrides for a small driver."""
LAST_DAY = "2026-01-06"
"""The night to run: the second simulated day."""


@contextmanager
def keep_on_failure() -> Iterator[Path]:
    """Create a temporary folder and delete it at the end, unless an error is raised.

    After an error, the logs and tables can be inspected, and single steps can be run again.
    """
    folder = Path(tempfile.mkdtemp(prefix="star-ctr-size-"))
    try:
        yield folder
    except BaseException:
        print(f"logs and tables were kept in {folder}", file=sys.stderr)
        raise
    shutil.rmtree(folder)


def run_star_ctr(folder: Path, *arguments: str) -> str:
    """Run a command of star-ctr.

    Args:
        folder: The working directory.
        arguments: The command and its options.

    Returns:
        The standard output and standard error of the command.

    Raises:
        SystemExit: The command failed; contains the end of its output.
    """
    command = [str(Path(sys.executable).parent / "star-ctr"), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if run.returncode != 0:
        raise SystemExit(f"star-ctr {arguments[0]}: {run.stdout[-1000:]}{run.stderr[-3000:]}")
    return run.stdout + run.stderr


def read(table: Path) -> pd.DataFrame:
    """Read the newest version of a Delta table."""
    return pd.concat([pd.read_parquet(uri.removeprefix("file://")) for uri in DeltaTable(str(table)).file_uris()])


def check_ledger(ledger: pd.DataFrame, rows: int, written: int) -> list[str]:
    """Check that every simulated row comes out of every step.

    Args:
        ledger: The table `ledger`.
        rows: The number of simulated rows.
        written: The number of rows in the log, including duplicates and broken rows.

    Returns:
        Descriptions of the numbers that are wrong.
    """
    steps = ledger.groupby("step")[["rows_in", "rows_out"]].sum()
    left_out = ledger[(ledger["step"] == "ingest") & (ledger["reason"] != "")]["rows_in"].sum()
    sums = {
        f"ingest rows_in - {written - rows:,} duplicate or broken": steps.loc["ingest", "rows_in"] - (written - rows),
        f"ingest rows_in - {left_out:,} with a reason": steps.loc["ingest", "rows_in"] - left_out,
        "ingest rows_out": steps.loc["ingest", "rows_out"],
        "features rows_out": steps.loc["features", "rows_out"],
        "split rows_out": steps.loc[["split.train", "split.test"], "rows_out"].sum(),
        "train + score rows_out": steps.loc[["train", "score"], "rows_out"].sum(),
        "train + evaluate rows_out": steps.loc[["train", "evaluate"], "rows_out"].sum(),
    }
    return [f"{name} = {n:,}, expected {rows:,}" for name, n in sums.items() if n != rows]


def run(rows: int = 5_000_000) -> list[dict[str, Any]]:
    """Run all steps, and return one entry of bench.json: the number of rows that came out of every step.

    Args:
        rows: The number of rows to simulate.
    """
    with keep_on_failure() as folder:
        settings = [
            f"paths.logs={folder}/logs", f"paths.warehouse={folder}/warehouse", *SMALL_DRIVER,
            f"simulate={{impressions: {rows}, days: 2, users: {rows // 40}, items: 20000, seed: 5}}",
        ]  # fmt: skip
        common = ["--conf", "demo", *(x for s in settings for x in ("--set", s))]
        run_star_ctr(folder, "simulate", *common)
        output = run_star_ctr(folder, "nightly", *common, "--ds", LAST_DAY)
        written = pads.dataset([str(f) for f in (folder / "logs" / "impressions").rglob("*.parquet")]).count_rows()
        problems = check_ledger(read(folder / "warehouse" / "ledger"), rows, written)
    times = ", ".join(f"{step} {time}" for step, time in re.findall(r"✓ (\w+)\s+([\d.]+ s)", output))
    return [
        {
            "name": "all_steps_with_a_driver_of_1_gib", "value": 0 if problems else rows, "unit": "rows through every step",
            "goal": f">= {rows}", "holds": not problems,
            "reference": "; ".join(problems) or f"driver 1 GiB, spark.driver.maxResultSize=16m; {times}",
        }
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000, help="number of rows to simulate")
    for entry in run(parser.parse_args().rows):
        print(json.dumps(entry, indent=1))


if __name__ == "__main__":
    main()
