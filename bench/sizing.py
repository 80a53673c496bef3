"""Estimate what a night with a billion rows per day needs: core hours by step, cores, and disk space.

1. Run two nights of two simulated days: one with `--rows` impressions, one with three times as many. Each step is a
   separate command.
2. Divide the additional processor time of the larger night by its additional rows. This rate does not include the
   seconds that each step takes to start.
3. Extrapolate the rates linearly to `--day` rows per day.

Processor time is measured instead of wall time, so that other work on the machine does not change the result. It does
not include waiting for disks and networks. The rates are written to `build/sizing.json`. A linear extrapolation from a
million rows to a billion is only a first estimate of the hardware to rent; measure again on the first cluster.

    python bench/sizing.py                        # measures first; takes about twenty minutes on two cores
    python bench/sizing.py --day 2e9 --hours 4    # another day, from the measured rates
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable
from rich.console import Console
from rich.table import Table
from size import read, run_star_ctr

from star_ctr.features.encoding.id_encoder import encode_ids
from star_ctr.features.encoding.value_index import index_values

TARGET = Path("build/sizing.json")
CORES = 2
LAST_DAY = "2026-01-06"
"""The night to run: the second simulated day."""
DAYS = {"ingest": 2, "features": 2, "split": 2, "train": 1, "score": 1, "evaluate": 1}
"""Number of days whose rows each step processes, if a night trains on one day (`window.days=1`)."""
STORED = {"impressions": "ingest", "features": "features", "split": "split", "scores": "score"}
"""Tables whose size is measured, with the step whose number of days they contain."""


@dataclass(frozen=True)
class Rates:
    """Measured rates.

    Attributes:
        core_seconds: Core seconds per million processed rows, by step.
        bytes_a_row: Bytes per row on disk, by table.
        rows: The numbers of impressions of the two nights.
    """

    core_seconds: dict[str, float]
    bytes_a_row: dict[str, float]
    rows: tuple[int, int]


@dataclass(frozen=True)
class Night:
    """Measurements of a night.

    Attributes:
        seconds: Core seconds by step.
        stored: Bytes of the newest version on disk, by table.
    """

    seconds: dict[str, float]
    stored: dict[str, int]


def compute_rates(small: Night, large: Night, rows: tuple[int, int]) -> Rates:
    """Compute rates from the difference between two nights.

    Args:
        small: The measurements of the smaller night.
        large: The measurements of the larger night.
        rows: The impressions of both nights; each night has two days of equal size.
    """
    more = rows[1] - rows[0]
    return Rates(
        {s: (large.seconds[s] - small.seconds[s]) / (more * DAYS[s] / 2) * 1e6 for s in DAYS},
        {t: (large.stored[t] - small.stored[t]) / (more * DAYS[s] / 2) for t, s in STORED.items()},
        rows,
    )


def compute_core_hours(found: Rates, day: float) -> dict[str, float]:
    """Return the core hours of each step of a night with `day` rows per day."""
    return {step: found.core_seconds[step] * day * DAYS[step] / 1e6 / 3600 for step in DAYS}


def measure_encoding(ids: int, batch: int = 16_384) -> float:
    """Return the core seconds for encoding a million values.

    Args:
        ids: The number of values in the vocabulary.
        batch: The rows per batch; by default as in `split`.
    """
    rng = np.random.default_rng(0)
    # A machine builds its index once, which is not measured.
    known = index_values(pa.array(np.arange(ids).astype("U12")), np.arange(ids, dtype=np.int32))
    batches = [pa.array(rng.integers(0, ids, batch).astype("U12")) for _ in range(10)]
    start = time.process_time()
    for values in batches:
        encode_ids(values, known)
    return (time.process_time() - start) / (len(batches) * batch) * 1e6


def measure(rows: int) -> Night:
    """Simulate `rows` impressions of two days, and measure the night of the second day."""
    with tempfile.TemporaryDirectory(prefix="star-ctr-sizing-") as name:
        folder = Path(name)
        settings = [
            f"paths.logs={folder}/logs", f"paths.warehouse={folder}/warehouse", f"spark.master=local[{CORES}]",
            "window.days=1", "trainer.epochs=1",
            f"simulate={{impressions: {rows}, days: 2, users: {rows // 40}, items: 20000, seed: 5}}",
        ]  # fmt: skip
        common = ["--conf", "demo", *(word for s in settings for word in ("--set", s))]
        run_star_ctr(folder, "simulate", *common)
        seconds = {step: measure_core_seconds(folder, step, *common, "--ds", LAST_DAY) for step in DAYS}
        ledger = read(folder / "warehouse/ledger")
        assert ledger[ledger["step"] == "features"]["rows_out"].sum() == rows
        return Night(seconds, {t: _sum_bytes(folder / "warehouse" / t) for t in STORED})


def measure_core_seconds(folder: Path, *arguments: str) -> float:
    """Run a command of star-ctr, and return the processor seconds of all processes of its session.

    Args:
        folder: The working directory.
        arguments: The command and its options.
    """
    command = [str(Path(sys.executable).parent / "star-ctr"), *arguments]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        seconds: dict[int, float] = {}
        while process.poll() is None:
            seconds |= _read_session(process.pid)
            time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"star-ctr {arguments[0]}: {(folder / 'output').read_text()[-3000:]}")
    return sum(seconds.values())


def _read_session(session: int) -> dict[int, float]:
    """Return the processor seconds of each process of a session so far (Linux only; see proc_pid_stat(5))."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # the process has just ended
            continue
        if int(fields[3]) == session:
            found[int(stat.parent.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def _sum_bytes(table: Path) -> int:
    """Return the size of the newest version of a Delta table on disk."""
    return sum(Path(uri.removeprefix("file://")).stat().st_size for uri in DeltaTable(str(table)).file_uris())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000, help="impressions of the smaller night")
    parser.add_argument("--day", type=float, default=1e9, help="impressions per day to estimate for")
    parser.add_argument("--hours", type=float, default=6.0, help="hours that a night may take")
    parser.add_argument("--again", action="store_true", help="measure again, even if build/sizing.json exists")
    arguments = parser.parse_args()
    if arguments.again or not TARGET.exists():
        sizes = (arguments.rows, 3 * arguments.rows)
        found = compute_rates(measure(sizes[0]), measure(sizes[1]), sizes)
        TARGET.parent.mkdir(parents=True, exist_ok=True)
        TARGET.write_text(json.dumps(asdict(found), indent=1) + "\n")
    found = Rates(**json.loads(TARGET.read_text()))
    table = Table("step", "core s per million rows", "rows/s per core", "days", "core hours", "share", title_justify="left",
                  title=f"{arguments.day:,.0f} rows per day, {arguments.hours:g} hours")  # fmt: skip
    steps = compute_core_hours(found, arguments.day)
    total = sum(steps.values())
    for step, hours in steps.items():
        cost = found.core_seconds[step]
        table.add_row(
            step, f"{cost:.1f}", f"{1e6 / cost:,.0f}", str(DAYS[step]), f"{hours:,.0f}", f"{hours / total:.0%}"
        )
    table.add_row("night", "", "", "", f"{total:,.0f}", f"{total / arguments.hours:,.0f} cores")
    disk = Table("table", "bytes per row", "GB per day")
    for name, size in found.bytes_a_row.items():
        disk.add_row(name, f"{size:.0f}", f"{size * arguments.day / 1e9:,.0f}")
    ids = Table("vocabulary size", "core s per million encoded values")
    for n in (100_000, 1_000_000, 5_000_000):
        ids.add_row(f"{n:,}", f"{measure_encoding(n):.1f}")
    Console().print(table, disk, ids)


if __name__ == "__main__":
    main()
