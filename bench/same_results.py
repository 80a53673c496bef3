"""Compare two warehouses of the same nights: tables by content, and weights by bits.

Use it to show that a change of names or structure does not change results. Run the nights with the old code and with
the new code into two warehouses, and list what was renamed in a YAML file:

    tables: {old name: new name}
    columns: {old name: new name}       # in any table
    parameters: {old prefix: new prefix}

    python bench/same_results.py BEFORE AFTER --renamed renamed.yaml

Run ids, hashes, times, paths, processes and JSON texts are not compared, since names occur in them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from deltalake import DeltaTable
from safetensors.numpy import load_file

NOT_COMPARED = {
    "run_id", "reference_run_id", "at", "seconds", "record", "versions", "facts", "process", "row", "inputs", "outputs",
    "stands_on", "gave", "why", "error", "host", "by", "reason", "token", "sequence",
}  # fmt: skip
"""Columns, by their new names: run ids, times, JSON and texts in which names occur."""
OF_PROCESSES = {"steps", "lease"}
"""Tables that hold when and where something ran."""


def read(table: Path, renamed: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Read the newest version of a table under the new names of its columns, without those that are not compared."""
    files = [uri.removeprefix("file://") for uri in DeltaTable(str(table)).file_uris()]
    rows = pd.concat([pd.DataFrame(), *(pd.read_parquet(file) for file in files)], ignore_index=True)
    rows = rows.rename(columns=dict(renamed or {}))
    return rows.drop(columns=[c for c in rows if c in NOT_COMPARED])


def in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Sort rows by all their columns as text."""
    keys = rows.apply(lambda column: column.map(repr))
    return rows.loc[keys.sort_values(list(keys)).index].reset_index(drop=True) if len(rows.columns) else rows


def compare_tables(old: pd.DataFrame, new: pd.DataFrame) -> str:
    """Return how the contents of two tables differ; empty if they do not."""
    if set(old) != set(new):
        return f"other columns: {sorted(set(old) ^ set(new))}"
    if len(old) != len(new):
        return f"{len(old)} and {len(new)} rows"
    old, new = in_order(old), in_order(new[list(old)])
    differ = [c for c in old if old[c].map(repr).tolist() != new[c].map(repr).tolist()]
    return f"other values in {', '.join(differ)}" if differ else ""


def weights(warehouse: Path) -> dict[str, dict[str, Any]]:
    """Read the weights of the newest attempt of each run, by run id without the hash of its settings."""
    found = {}
    for run in sorted((warehouse / "models").iterdir()):
        attempts = sorted(run.glob("attempt-*/record.json"))
        name = "-refit".join(part.rpartition("-")[0] or part for part in run.name.split("-refit"))
        found[name] = load_file(attempts[-1].parent / "model.safetensors")
    return found


def compare_weights(old: Mapping[str, Any], new: Mapping[str, Any], prefixes: Mapping[str, str]) -> str:
    """Return how two sets of weights differ in a bit; empty if they do not."""
    renamed = {}
    for name, value in old.items():
        prefix = max((p for p in prefixes if name.startswith(p)), key=len, default="")
        renamed[prefixes.get(prefix, "") + name.removeprefix(prefix)] = value
    if renamed.keys() != new.keys():
        return f"other parameters: {sorted(renamed.keys() ^ new.keys())}"
    differ = [n for n, v in renamed.items() if v.dtype != new[n].dtype or v.tobytes() != new[n].tobytes()]
    return f"other bits in {', '.join(differ)}" if differ else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="warehouse of the old code")
    parser.add_argument("after", type=Path, help="warehouse of the new code")
    parser.add_argument("--renamed", type=Path, help="YAML file with what was renamed")
    arguments = parser.parse_args()
    renamed = yaml.safe_load(arguments.renamed.read_text()) if arguments.renamed else {}
    different = 0
    print(f"{'':28} {'rows':>12}  result")
    for log in sorted(arguments.before.glob("*/_delta_log")):
        table = log.parent
        if table.name in OF_PROCESSES:
            continue
        name = renamed.get("tables", {}).get(table.name, table.name)
        rows, other = read(table, renamed.get("columns")), arguments.after / name
        found = compare_tables(rows, read(other)) if DeltaTable.is_deltatable(str(other)) else "missing"
        print(f"{name:28} {len(rows):12,}  {found or 'same'}")
        different += bool(found)
    old, new = weights(arguments.before), weights(arguments.after)
    if old.keys() != new.keys():
        sys.exit(f"other runs: {sorted(old.keys() ^ new.keys())}")
    for run, values in old.items():
        found = compare_weights(values, new[run], renamed.get("parameters", {}))
        print(f"{run:28} {sum(np.size(v) for v in values.values()):12,}  {found or 'same bits'}")
        different += bool(found)
    sys.exit(f"{different} of them differ" if different else 0)


if __name__ == "__main__":
    main()
