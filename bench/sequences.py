"""Benchmark: how much smaller a split would be if it stored the sequences of a user and day once.

Rows of a user and day share most of their sequences. The benchmark rewrites the newest night of a split in two Parquet
files: the rows without their sequences, but with the number of their user and day; and the sequences by user and day.
Its value is the size of the same rows with their sequences, written alike, over the size of both files.

The estimate favours the second form. Of a user and day, it stores the longest list of each sequence and one event for
each further different list. A real form would also store where the list of each row ends.

    python bench/sequences.py                              # simulated logs, with the features of conf/demo.yaml
    python bench/sequences.py --split warehouse/kuairand/split
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from entries import make_entry
from size import run_star_ctr

from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.features.encoding.row_encoder import pack_rows
from star_ctr.model.data.reader import unpack_columns

ROWS = 200_000
"""Number of simulated impressions."""


def estimate(split: Path) -> dict[str, Any]:
    """Return the entry of bench.json for the newest night of a split."""
    table = DeltaTable(str(split))
    commit = next(c for c in table.history() if "layout" in str(c.get("userMetadata", "")))
    layout = Layout.model_validate(json.loads(commit["userMetadata"])["layout"])
    files = [uri.removeprefix("file://") for uri in table.file_uris([("ds", "=", layout.ds)])]
    rows = pa.concat_tables(pq.ParquetFile(file).read() for file in files)
    ints, _ = unpack_columns(rows["ints"], rows["floats"], layout)
    keys = pa.array(
        np.char.add(np.char.add(rows["user_id"].to_numpy().astype(str), "/"), rows["day"].to_numpy().astype(str))
    )
    user_days = np.asarray(keys.dictionary_encode().indices)
    order = np.argsort(user_days, kind="stable")
    shared, is_sequence = [], np.zeros(layout.int_count, bool)
    for sequence, offset in layout.iter_sequence_offsets():
        columns = [
            offset,
            *(c for _, start in sequence.iter_offsets(offset) for c in range(start, start + sequence.length)),
        ]
        is_sequence[columns] = True
        shared += _merge_lists(ints[order][:, columns], user_days[order], len(sequence.sides))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        other = rows.drop_columns(["ints"])
        now = _write(folder / "now", other.append_column("ints", pack_rows(ints)))
        number = pa.array(user_days.astype(np.int32))
        alone = other.append_column("ints", pack_rows(np.ascontiguousarray(ints[:, ~is_sequence])))
        split_rows = _write(folder / "rows", alone.append_column("user_day", number))
        lists = _write(folder / "lists", pa.table({"events": pa.array(shared, pa.binary())}))
    n, distinct = len(ints), len(np.unique(user_days))
    detail = (
        f"{n:,} rows of {distinct:,} users and days; sequences are {is_sequence.mean():.0%} of the integers; {now / n:.0f} bytes "
        f"per row, of which {split_rows / n:.0f} without sequences; with sequences stored once {(split_rows + lists) / n:.0f}"
    )
    return make_entry("sequences_once", now / (split_rows + lists), "ratio of bytes", 3, detail, least=True)


def _merge_lists(lists: np.ndarray, user_days: np.ndarray, sides: int) -> list[bytes]:
    """Return the values of a sequence to store for each user and day.

    Args:
        lists: (n, 1 + sides * length) lengths and values, sorted by user and day.
        user_days: (n,) numbers of the users and days.
        sides: The number of values per event.
    """
    found = []
    starts = np.flatnonzero(np.r_[True, user_days[1:] != user_days[:-1]])
    for start, end in zip(starts, [*starts[1:], len(user_days)], strict=True):
        own = np.unique(lists[start:end], axis=0)
        longest = own[own[:, 0].argmax()]
        values = longest[1:].reshape(sides, -1)[:, : longest[0]]
        # One event per further list: the last event of each.
        more = [row[1:].reshape(sides, -1)[:, row[0] - 1] for row in own[:-1] if row[0]]
        found.append(np.concatenate([values.ravel(), *more]).astype(np.int32).tobytes())
    return found


def _write(file: Path, table: pa.Table) -> int:
    """Write a table to Parquet as Spark does, and return its size."""
    pq.write_table(table, file, compression="snappy")
    return file.stat().st_size


def run(rows: int = ROWS) -> list[dict[str, Any]]:
    """Simulate logs, write the split of a night, and return the entry of bench.json."""
    with tempfile.TemporaryDirectory(prefix="star-ctr-sequences-") as name:
        folder = Path(name)
        sets = (
            f"paths.logs={folder}/logs", f"paths.warehouse={folder}/warehouse", "spark.master=local[2]",
            f"simulate={{impressions: {rows}, days: 4, users: {rows // 30}, items: 5000, seed: 1}}",
        )  # fmt: skip
        for step in ("simulate", "ingest", "features", "split"):
            run_star_ctr(folder, step, "--conf", "demo", *(word for s in sets for word in ("--set", s)))
        return [estimate(folder / "warehouse" / "split")]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", type=Path, help="a table with a split; by default, one of simulated logs")
    split = parser.parse_args().split
    print(json.dumps([estimate(split)] if split else run(), indent=1))
