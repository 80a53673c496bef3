"""Show where the processor time of the steps goes: starting and compiling, garbage collection, tasks, Python.

Runs the steps of a night on simulated logs, each as a separate command, and samples the threads of all its processes
(Linux only). The night trains on one day and has features as in `conf/demo.yaml`.

    python bench/step_profile.py [--rows 200000 --steps ingest,features,split]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table
from size import run_star_ctr

STEPS = ("ingest", "features", "split", "score", "evaluate")
"""The measured steps. `train` runs between `split` and `score`."""
KINDS = {
    "compile": ("C1 Compiler", "C2 Compiler", "Sweeper"),
    "collect": ("GC Thread", "G1 ", "VM Thread", "VM Periodic"),
    "tasks": ("Executor task", "stdout writer", "Python", "shuffle", "Thread-"),
}
"""Beginnings of the names of threads of the JVM, by kind. All others plan queries, schedule tasks and load classes."""
COLUMNS = ("compile", "collect", "tasks", "other JVM", "Python driver", "Python workers")
_TICKS = os.sysconf("SC_CLK_TCK")


def measure(folder: Path, step: str, *arguments: str) -> Counter[str]:
    """Run a step, and return its processor seconds by kind."""
    command = [str(Path(sys.executable).parent / "star-ctr"), step, *arguments]
    seconds: dict[tuple[int, int], tuple[str, float]] = {}
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        while process.poll() is None:
            seconds |= read_threads(process.pid)
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"star-ctr {step}: {(folder / 'output').read_text()[-3000:]}")
    found = Counter[str]()
    for kind, spent in seconds.values():
        found[kind] += spent
    return found


def read_threads(session: int) -> dict[tuple[int, int], tuple[str, float]]:
    """Return the kind and the processor seconds of each thread of a session so far, by process and thread."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) != session:
                continue
            command = (process / "cmdline").read_bytes()
            program = command.partition(b"\0")[0]
            for thread in (process / "task").iterdir():
                name, times = (thread / "stat").read_text().rsplit(")", 1)
                ticks = sum(map(int, times.split()[11:13]))
                kind = "Python workers" if b"pyspark.daemon" in command else "Python driver"
                if program.endswith(b"java"):
                    kind = _classify(name.partition("(")[2])
                found[int(process.name), int(thread.name)] = (kind, ticks / _TICKS)
        except (OSError, ValueError):  # the process has just ended
            continue
    return found


def _classify(thread: str) -> str:
    return next((kind for kind, starts in KINDS.items() if thread.startswith(starts)), "other JVM")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000, help="impressions per day")
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", help="override a setting; can be repeated"
    )
    parser.add_argument("--steps", default=",".join(STEPS), help="the steps to run and measure")
    arguments = parser.parse_args()
    rows = 2 * arguments.rows
    table = Table(
        "step", *COLUMNS, "sum", title=f"Core seconds of the steps of a night with {rows // 2:,} rows per day"
    )
    with tempfile.TemporaryDirectory(prefix="star-ctr-profile-") as name:
        folder = Path(name)
        sets = (
            f"paths.logs={folder}/logs", f"paths.warehouse={folder}/warehouse", "spark.master=local[2]", "window.days=1",
            "trainer.epochs=1", f"simulate={{impressions: {rows}, days: 2, users: {rows // 40}, items: 20000, seed: 5}}",
        )  # fmt: skip
        common = ["--conf", "demo", *(word for s in (*sets, *arguments.overrides) for word in ("--set", s))]
        run_star_ctr(folder, "simulate", *common)
        for step in arguments.steps.split(","):
            if step == "score":
                run_star_ctr(folder, "train", *common)
            found = measure(folder, step, *common)
            row = [f"{found[c]:.1f}" for c in COLUMNS]
            print(step, ", ".join(f"{c} {n}" for c, n in zip(COLUMNS, row, strict=True)), flush=True)
            table.add_row(step, *row, f"{found.total():.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
