"""Benchmark: histories of users: the sorted scan of this project against DuckDB.

The data are 10 million behaviours and 1 million impressions of 200,000 users on one day. The share of user k in both is
proportional to 1 / k, except that the first user has a tenth of both (a million behaviours). Each method finds the last
50 items before every impression. It reads Parquet files and writes the same lists of text to Parquet files, compressed
alike; a separate query compares them:

- the sorted scan (`features.point_in_time`) on Spark, with driver and executor in one JVM of 2 GiB;
- DuckDB, with an ASOF join that finds the rank of the last behaviour, and a join on the fifty ranks up to it. This is
  the fastest SQL query that we know;
- DuckDB, with a join on ranges of the behaviours' ranks;
- DuckDB, with the history of each user as a list that is filtered for each impression (the usual query).

Both use two threads. The time is processor time of all processes, without the start of Spark or DuckDB.

    python bench/history.py [--behaviours 10000000 --impressions 1000000]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from entries import make_entry
from processor_time import read_tree_seconds

LENGTH = 50
"""Number of items before an impression."""
_LISTS = """
    WITH h AS (
      SELECT user_id, list({{'t': t, 'item': item_id}} ORDER BY t, item_id) AS events
      FROM '{folder}/behaviours.parquet' GROUP BY user_id
    )
    SELECT i.impression_id, list_transform(list_filter(h.events, lambda x: x.t < i.t)[-{length}:], lambda x: x.item) AS last
    FROM '{folder}/impressions.parquet' i LEFT JOIN h USING (user_id)
"""
_BY_RANK = """
    WITH b AS (
      SELECT user_id, t, item_id, row_number() OVER (PARTITION BY user_id ORDER BY t, item_id) AS r
      FROM '{folder}/behaviours.parquet'
    ), known AS (
      SELECT user_id, t, max(r) AS r FROM b GROUP BY user_id, t
    ), i AS (
      SELECT i.impression_id, i.user_id, {seen}
      FROM '{folder}/impressions.parquet' i ASOF JOIN known k ON i.user_id = k.user_id AND i.t > k.t
    )
    SELECT i.impression_id, list(b.item_id ORDER BY b.r) AS last FROM i JOIN b
      ON b.user_id = i.user_id AND {on} GROUP BY i.impression_id
"""

# Use `replace`, because `{folder}` and `{length}` are filled in by `format` later.
_RANGES = _BY_RANK.replace("{seen}", "k.r AS seen").replace("{on}", "b.r > i.seen - {length} AND b.r <= i.seen")
_ASOF = _BY_RANK.replace("{seen}", "unnest(range(greatest(k.r - {length} + 1, 1), k.r + 1)) AS place").replace(
    "{on}", "b.r = i.place"
)
QUERIES = {"asof": _ASOF, "ranges": _RANGES, "lists": _LISTS}
_CHECKSUM = """
    SELECT coalesce(sum(len(last)), 0)::BIGINT,
      coalesce(sum(hash(impression_id, array_to_string(last, ','))::HUGEINT) FILTER (len(last) > 0), 0)::VARCHAR
    FROM '{output}'
"""


def generate(folder: Path, behaviours: int, impressions: int) -> None:
    """Write the random tables `behaviours.parquet` and `impressions.parquet`.

    Args:
        folder: The folder to write to.
        behaviours: The number of behaviours.
        impressions: The number of impressions.
    """
    rng = np.random.default_rng(0)
    weight = 1.0 / np.arange(1, max(behaviours // 50, 100) + 1)
    weight[0] = weight[1:].sum() / 9
    bounds = np.cumsum(weight / weight.sum())

    def write(n: int, name: str) -> None:
        # Ids are text in both, as in the tables of the project.
        columns: dict[str, Any] = {
            "user_id": _format(np.searchsorted(bounds[:-1], rng.random(n), side="right")),
            "t": rng.integers(1, 86_400_000, n) * 1_000,
        }
        extra = (
            {"impression_id": _format(np.arange(n))}
            if name == "impressions"
            else {"item_id": _format(rng.integers(0, 1_000_000, n))}
        )
        pq.write_table(pa.table(columns | extra), folder / f"{name}.parquet", row_group_size=1_000_000)

    write(behaviours, "behaviours")
    write(impressions, "impressions")


def _format(numbers: np.ndarray) -> pa.Array:
    return pc.cast(pa.array(numbers), pa.string())


def scan_with_spark(folder: str, output: str) -> float:
    """Run the sorted scan in a new session; returns processor seconds. Runs in a separate process."""
    from pyspark.sql import functions as F

    from star_ctr.conf.load import load
    from star_ctr.conf.settings.features import History, Sequence
    from star_ctr.features.point_in_time.events import LOG_DAY, SCALE, name_weight_column
    from star_ctr.features.point_in_time.scan_planner import History as Known
    from star_ctr.features.point_in_time.scan_planner import add_history
    from star_ctr.jobs.io.session import start

    settings = load("demo", ["spark.master=local[2]", "spark.driver_memory=2g"])
    sequence = Sequence(name="s", kind="sequence", of=["watch"], columns={"item_id": "i"}, length=LENGTH, gap=False)
    history = {"watch": History(impressions=True)}
    settings = settings.model_copy(update={"history": history, "features": [sequence], "zone": "UTC"})
    spark = start(settings, "history")
    spark.range(10).count()
    began = read_tree_seconds()
    behaviours = spark.read.parquet(f"{folder}/behaviours.parquet")
    events = behaviours.select(
        "user_id", "t", F.lit(0).cast("long").alias("order"), F.col("item_id").alias("tie"), F.lit("1970-01-01").alias(LOG_DAY),
        F.lit(SCALE).alias(name_weight_column("watch")), "item_id",
    )  # fmt: skip
    impressions = spark.read.parquet(f"{folder}/impressions.parquet")
    rows = impressions.select(
        "user_id", "impression_id", F.timestamp_micros("t").alias("ts"), F.lit("1970-01-01").alias("ds")
    )
    # All events are of the day of the rows, so there are no lists of earlier days.
    with ExitStack() as stack:
        found = add_history(settings, rows, Known(None, None, events), stack)
        found.select("impression_id", F.col("s__item_id").alias("last")).write.parquet(output)
    return read_tree_seconds() - began


def query_duckdb(query: str, folder: str, output: str) -> float:
    """Run a query on two threads; returns processor seconds. Runs in a separate process."""
    connection = duckdb.connect()
    connection.execute("SET threads = 2")
    began = read_tree_seconds()
    connection.execute(f"COPY ({query.format(folder=folder, length=LENGTH)}) TO '{output}' (FORMAT parquet)")
    return read_tree_seconds() - began


def compute_checksum(output: str) -> tuple[int, str]:
    """Return the number of listed items, and a checksum of the lists and their impressions."""
    length, total = duckdb.execute(_CHECKSUM.format(output=output)).fetchone()  # type: ignore[misc]
    return int(length), str(total)


def measure(way: str, folder: Path, limit: float | None = None) -> tuple[float, tuple[int, str] | None]:
    """Run a method in a separate process.

    Args:
        way: `spark` or a key of `QUERIES`.
        folder: The folder with the tables.
        limit: The maximum number of seconds, in wall time; unlimited by default.

    Returns:
        The processor seconds and the checksum; no checksum if the method did not end within `limit` seconds.
    """
    with tempfile.TemporaryDirectory(dir=folder) as name:
        output = f"{name}/{way}.parquet"
        command = [sys.executable, __file__, "--way", way, "--folder", str(folder), "--output", output]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            assert limit is not None
            return limit, None
        if run.returncode != 0:
            raise SystemExit(f"{way}: {run.stderr[-2000:]}")
        checksum = compute_checksum(f"{output}/*.parquet" if way == "spark" else output)
    return float(run.stdout.strip().splitlines()[-1]), checksum


def run(behaviours: int = 10_000_000, impressions: int = 1_000_000) -> list[dict[str, Any]]:
    """Measure all methods, and return the entries of bench.json.

    Args:
        behaviours: The number of behaviours.
        impressions: The number of impressions.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(folder, behaviours, impressions)
        # Measure the sorted scan twice, so that the result shows whether the machine's speed changed.
        first, sums = measure("spark", folder)
        asof, asof_sums = measure("asof", folder)
        second, _ = measure("spark", folder)
        scan_seconds = (first + second) / 2
        # Stop queries that take nine times as long, because the result is already clear.
        ranges, range_sums = measure("ranges", folder, limit=9 * scan_seconds)
        lists, list_sums = measure("lists", folder, limit=9 * scan_seconds)
        assert sums == asof_sums, (sums, asof_sums)
        assert range_sums in (None, sums), (sums, range_sums)
        assert list_sums in (None, sums), (sums, list_sums)
    detail = f"{behaviours:,} behaviours x {impressions:,} impressions; sorted scan {first:.1f} s and {second:.1f} s"

    def compare(name: str, seconds: float, sums: object, way: str, least: float) -> dict[str, Any]:
        reference = f"{detail}; DuckDB {seconds:.1f} s{'' if sums else ' (stopped before its end)'}"
        unit = f"ratio of processor times: DuckDB with {way}"
        return make_entry(name, seconds / scan_seconds, unit, least, reference, least=True)

    return [
        compare("history_vs_duckdb", lists, list_sums, "filtered lists", 8),
        compare("history_vs_duckdb_ranks", ranges, range_sums, "ranges of ranks", 1),
        compare("history_vs_duckdb_asof", asof, asof_sums, "ASOF join and ranks", 0.8),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--behaviours", type=int, default=10_000_000, help="number of behaviours")
    parser.add_argument("--impressions", type=int, default=1_000_000, help="number of impressions")
    parser.add_argument("--way", choices=["spark", *QUERIES], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way == "spark":
        print(scan_with_spark(arguments.folder, arguments.output))
    elif arguments.way:
        print(query_duckdb(QUERIES[arguments.way], arguments.folder, arguments.output))
    else:
        for result in run(arguments.behaviours, arguments.impressions):
            print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
