"""Run the benchmarks. Prints a table and writes `build/bench.json`.

Machines are noisy, so results are ratios: each benchmark measures a reference in the same run. Times of different runs
must not be compared.

    make bench                       # all benchmarks
    python bench/run.py stream       # only some of them
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

# Import before torch: sets the OpenMP wait policy.
import star_ctr  # noqa: F401  # isort: skip

import beside_load
import bulk
import cost
import delayed_outcomes
import gpu
import history
import long_run
import many_domains
import metrics
import nights
import open_labels
import sequences
import size
import skew
import stream
import training
import tune
import vocabulary_memory
from rich.console import Console
from rich.table import Table

BENCHMARKS = {
    "cost": cost.run,
    "many_domains": many_domains.run,
    "stream": stream.run,
    "training": training.run,
    "tune": tune.run,
    "beside_load": beside_load.run,
    "gpu": gpu.run,
    "history": history.run,
    "nights": nights.run,
    "open_labels": open_labels.run,
    "delayed_outcomes": delayed_outcomes.run,
    "long_run": long_run.run,
    "skew": skew.run,
    "sequences": sequences.run,
    "metrics": metrics.run,
    "size": size.run,
    "bulk": bulk.run,
    "vocabulary_memory": vocabulary_memory.run,
}
TARGET = Path("build/bench.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"benchmarks to run; default: all of {', '.join(BENCHMARKS)}")
    names = parser.parse_args().names or list(BENCHMARKS)
    results = json.loads(TARGET.read_text()) if TARGET.exists() else []
    table = Table("name", "value", "unit", "goal", "holds", "reference")
    for name in names:
        for entry in BENCHMARKS[name]():
            results = [r for r in results if r["name"] != entry["name"]] + [entry]
            table.add_row(*(str(entry[k]) for k in ("name", "value", "unit", "goal", "holds", "reference")))
            TARGET.parent.mkdir(parents=True, exist_ok=True)
            TARGET.write_text(json.dumps(results, indent=1) + "\n")
    Console().print(table)


if __name__ == "__main__":
    main()
