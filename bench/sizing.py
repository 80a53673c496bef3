"""What a day of a billion rows would need: the core seconds of each step here, and the cores and disk that follow.

Two nights of two simulated days, one of `--rows` impressions and one of three times as many, a command a step: what the
larger one takes more of the processors' time, by the rows that it has more, is a rate without the seconds that every
step starts with. Processor time and not the clock's, so that a machine on which others work too tells the same; waiting
for disks and networks is not in it. The rates stay in `build/sizing.json`. Straight lines from a million rows to a
billion are a first guess of how much to rent, to be measured again on the first cluster.

    python bench/sizing.py                        # measures first: some ten minutes on two cores
    python bench/sizing.py --day 2e9 --hours 4    # another day, from the rates that were measured
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
from size import read, star_ctr

from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.features.encoding.row_encoder import RowEncoder

TARGET = Path("build/sizing.json")
CORES = 2
LAST_DAY = "2026-01-06"
# Rows of which days a step works on, where a night is to train on the last day alone (window.days=1).
DAYS = {"ingest": 2, "features": 2, "split": 2, "train": 1, "score": 1, "evaluate": 1}
STORED = {"impressions": "ingest", "features": "features", "split": "split", "scores": "score"}


@dataclass(frozen=True)
class Rates:
    """`core_seconds`: by step, of a million rows that it works on; `bytes_a_row`: by table, on disk."""

    core_seconds: dict[str, float]
    bytes_a_row: dict[str, float]
    rows: tuple[int, int]


@dataclass(frozen=True)
class Night:
    """One measured night: core seconds by step, and the bytes that a table's newest version takes."""

    seconds: dict[str, float]
    stored: dict[str, int]


def rates(small: Night, large: Night, rows: tuple[int, int]) -> Rates:
    """The rates between two nights of `rows` impressions in all, half of them a day."""
    more = rows[1] - rows[0]
    return Rates(
        {s: (large.seconds[s] - small.seconds[s]) / (more * DAYS[s] / 2) * 1e6 for s in DAYS},
        {t: (large.stored[t] - small.stored[t]) / (more * DAYS[s] / 2) for t, s in STORED.items()},
        rows,
    )


def core_hours(found: Rates, day: float) -> dict[str, float]:
    """By step, what a night of `day` rows a day takes."""
    return {step: found.core_seconds[step] * day * DAYS[step] / 1e6 / 3600 for step in DAYS}


def encoding(ids: int, batch: int = 16_384) -> float:
    """Core seconds of a million values encoded by a vocabulary of `ids` values, in the batches that `split` has."""
    rng = np.random.default_rng(0)
    layout = Layout(ds="", domains=[], embeddings={}, categorical=[], buckets=[], numeric=[], sequences=[])
    encoder = RowEncoder(layout, {"item": pa.array(np.arange(ids).astype("U12"))})
    first, *batches = (pa.array(rng.integers(0, ids, batch).astype("U12")) for _ in range(11))
    encoder.encode_ids(first, "item")  # a worker sorts the vocabulary once
    began = time.process_time()
    for values in batches:
        encoder.encode_ids(values, "item")
    return (time.process_time() - began) / (len(batches) * batch) * 1e6


def measure(rows: int) -> Night:
    """Simulate `rows` impressions of two days and run the night of the second one."""
    with tempfile.TemporaryDirectory(prefix="star-ctr-sizing-") as name:
        folder = Path(name)
        settings = [
            f"paths.logs={folder}/logs", f"paths.warehouse={folder}/warehouse", f"spark.master=local[{CORES}]",
            "window.days=1", "trainer.epochs=1",
            f"simulate={{impressions: {rows}, days: 2, users: {rows // 40}, items: 20000, seed: 5}}",
        ]  # fmt: skip
        common = ["--conf", "demo", *(word for s in settings for word in ("--set", s))]
        star_ctr(folder, "simulate", *common)
        seconds = {step: core_seconds(folder, step, *common, "--ds", LAST_DAY) for step in DAYS}
        ledger = read(folder / "warehouse/ledger")
        assert ledger[ledger["step"] == "features"]["rows_out"].sum() == rows
        return Night(seconds, {t: _bytes(folder / "warehouse" / t) for t in STORED})


def core_seconds(folder: Path, *arguments: str) -> float:
    """The processors' time that a command of star-ctr and all processes of its session take."""
    command = [str(Path(sys.executable).parent / "star-ctr"), *arguments]
    with (folder / "told").open("wb") as told:
        process = subprocess.Popen(command, cwd=folder, stdout=told, stderr=subprocess.STDOUT, start_new_session=True)
        taken: dict[int, float] = {}
        while process.poll() is None:
            taken |= _of_session(process.pid)
            time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"star-ctr {arguments[0]}: {(folder / 'told').read_text()[-3000:]}")
    return sum(taken.values())


def _of_session(session: int) -> dict[int, float]:
    """By process of a session, the seconds that it has computed (Linux: /proc, see proc_pid_stat(5))."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[3]) == session:
            found[int(stat.parent.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def _bytes(table: Path) -> int:
    return sum(Path(uri.removeprefix("file://")).stat().st_size for uri in DeltaTable(str(table)).file_uris())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=150_000, help="impressions of the smaller night")
    parser.add_argument("--day", type=float, default=1e9, help="impressions a day to reckon for")
    parser.add_argument("--hours", type=float, default=6.0, help="that a night may take")
    parser.add_argument("--again", action="store_true", help="measure, even where rates are there")
    arguments = parser.parse_args()
    if arguments.again or not TARGET.exists():
        sizes = (arguments.rows, 3 * arguments.rows)
        found = rates(measure(sizes[0]), measure(sizes[1]), sizes)
        TARGET.parent.mkdir(parents=True, exist_ok=True)
        TARGET.write_text(json.dumps(asdict(found), indent=1) + "\n")
    found = Rates(**json.loads(TARGET.read_text()))
    table = Table("step", "core s a million rows", "rows s⁻¹ a core", "days", "core hours", "its part", title_justify="left",
                  title=f"{arguments.day:,.0f} rows a day, {arguments.hours:g} hours")  # fmt: skip
    steps = core_hours(found, arguments.day)
    total = sum(steps.values())
    for step, hours in steps.items():
        cost = found.core_seconds[step]
        table.add_row(
            step, f"{cost:.1f}", f"{1e6 / cost:,.0f}", str(DAYS[step]), f"{hours:,.0f}", f"{hours / total:.0%}"
        )
    table.add_row("night", "", "", "", f"{total:,.0f}", f"{total / arguments.hours:,.0f} cores")
    disk = Table("table", "bytes a row", "GB a day")
    for name, size in found.bytes_a_row.items():
        disk.add_row(name, f"{size:.0f}", f"{size * arguments.day / 1e9:,.0f}")
    ids = Table("ids of a feature", "core s a million of its values, in split")
    for n in (100_000, 1_000_000, 5_000_000):
        ids.add_row(f"{n:,}", f"{encoding(n):.1f}")
    Console().print(table, disk, ids)


if __name__ == "__main__":
    main()
