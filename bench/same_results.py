"""Compare two warehouses of the same nights: the rows of all tables, and the weights bit for bit.

Use this script to show that a change of names or structure does not change results. Run the nights with the old code
and with the new code into two warehouses, and list all renamed tables, columns and parameters in a YAML file:

    tables: {old name: new name}
    columns: {old name: new name}       # in any table
    parameters: {old prefix: new prefix}

    python bench/same_results.py BEFORE AFTER --renamed renamed.yaml

Run ids, hashes, times, paths, processes and JSON texts are not compared, because they contain names.
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
    "run_id", "reference_run_id", "at", "seconds", "record", "versions", "config", "code", "facts", "evidence", "settings", "process", "row", "inputs", "outputs",
    "stands_on", "gave", "why", "error", "host", "by", "reason", "token", "sequence",
}  # fmt: skip
"""Columns that are not compared: run ids, hashes, times, JSON and other texts that contain names."""
OF_PROCESSES = {"steps", "lease"}
"""Tables that are not compared, because they contain when and where steps ran."""


def read(table: Path, renamed: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Read the newest version of a table, without the columns that are not compared.

    Args:
        table: The path of the table.
        renamed: The new names of renamed columns, by old name.
    """
    files = [uri.removeprefix("file://") for uri in DeltaTable(str(table)).file_uris()]
    rows = pd.concat([pd.DataFrame(), *(pd.read_parquet(file) for file in files)], ignore_index=True)
    rows = rows.rename(columns=dict(renamed or {}))
    return rows.drop(columns=[c for c in rows if c in NOT_COMPARED])


def sort_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Sort rows by the text of all their columns."""
    keys = rows.apply(lambda column: column.map(repr))
    return rows.loc[keys.sort_values(list(keys)).index].reset_index(drop=True) if len(rows.columns) else rows


def compare_tables(old: pd.DataFrame, new: pd.DataFrame) -> str:
    """Return a description of the difference between two tables; empty if they are equal."""
    if set(old) != set(new):
        return f"different columns: {sorted(set(old) ^ set(new))}"
    if len(old) != len(new):
        return f"{len(old)} and {len(new)} rows"
    old, new = sort_rows(old), sort_rows(new[list(old)])
    differ = [c for c in old if old[c].map(repr).tolist() != new[c].map(repr).tolist()]
    return f"different values in {', '.join(differ)}" if differ else ""


def read_weights(warehouse: Path) -> dict[str, dict[str, Any]]:
    """Read the weights of the newest attempt of each run; keys are run ids without the hash of the settings."""
    found = {}
    for run in sorted((warehouse / "models").iterdir()):
        attempts = sorted(run.glob("attempt-*/record.json"))
        name = "-refit".join(part.rpartition("-")[0] or part for part in run.name.split("-refit"))
        found[name] = load_file(attempts[-1].parent / "model.safetensors")
    return found


def compare_weights(old: Mapping[str, Any], new: Mapping[str, Any], prefixes: Mapping[str, str]) -> str:
    """Return a description of the difference between two sets of weights; empty if all bits are equal.

    Args:
        old: The weights of the old code by parameter name.
        new: The weights of the new code by parameter name.
        prefixes: The new prefixes of renamed parameters, by old prefix. The longest matching prefix is replaced.
    """
    renamed = {}
    for name, value in old.items():
        prefix = max((p for p in prefixes if name.startswith(p)), key=len, default="")
        renamed[prefixes.get(prefix, "") + name.removeprefix(prefix)] = value
    if renamed.keys() != new.keys():
        return f"different parameters: {sorted(renamed.keys() ^ new.keys())}"
    differ = [n for n, v in renamed.items() if v.dtype != new[n].dtype or v.tobytes() != new[n].tobytes()]
    return f"different bits in {', '.join(differ)}" if differ else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="warehouse of the old code")
    parser.add_argument("after", type=Path, help="warehouse of the new code")
    parser.add_argument("--renamed", type=Path, help="YAML file with the renamed tables, columns and parameters")
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
    old, new = read_weights(arguments.before), read_weights(arguments.after)
    if old.keys() != new.keys():
        sys.exit(f"different runs: {sorted(old.keys() ^ new.keys())}")
    for run, values in old.items():
        found = compare_weights(values, new[run], renamed.get("parameters", {}))
        print(f"{run:28} {sum(np.size(v) for v in values.values()):12,}  {found or 'same bits'}")
        different += bool(found)
    sys.exit(f"{different} tables or runs differ" if different else 0)


if __name__ == "__main__":
    main()
