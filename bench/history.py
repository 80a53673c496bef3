"""Benchmark: histories of users: the sorted scan of this project against DuckDB.

The data are 10 million behaviours and 1 million impressions of 200,000 users on one day. The share of user k in both is
proportional to 1 / k, except that the first user has a tenth of both (a million behaviours). Each method finds the last
50 items before every impression, and the checksums of their results must agree:

- the sorted scan (`features.point_in_time`) on Spark, with driver and executor in one JVM of 2 GiB;
- DuckDB, with the history of each user as a list that is filtered for each impression (the usual query);
- DuckDB, with a join on ranges of the behaviours' ranks;
- DuckDB, with a join on the ranks themselves, fifty equalities per impression. This is the fastest SQL query that we
  know. It has no goal; its time is reported for comparison.

    python bench/history.py [--behaviours 10000000 --impressions 1000000]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

LENGTH = 50
"""Number of items before an impression."""
LISTS = """
    WITH h AS (
      SELECT user_id, list({{'t': t, 'item': item_id}} ORDER BY t, item_id) AS events
      FROM '{folder}/behaviours.parquet' GROUP BY user_id
    ), s AS (
      SELECT (list_filter(h.events, lambda x: x.t < i.t))[-{length}:] AS last
      FROM '{folder}/impressions.parquet' i LEFT JOIN h USING (user_id)
    )
    SELECT coalesce(sum(len(last)), 0), coalesce(sum(list_sum(list_transform(last, lambda x: x.item::HUGEINT))), 0) FROM s
"""
_BY_RANK = """
    WITH b AS (
      SELECT user_id, t, item_id, row_number() OVER (PARTITION BY user_id ORDER BY t, item_id) AS r
      FROM '{folder}/behaviours.parquet'
    ), known AS (
      SELECT user_id, t, max(r) AS r FROM b GROUP BY user_id, t
    ), i AS (
      SELECT i.impression_id AS id, i.user_id, {seen}
      FROM '{folder}/impressions.parquet' i ASOF JOIN known k ON i.user_id = k.user_id AND i.t > k.t
    ), s AS (
      SELECT i.id, list(b.item_id ORDER BY b.r) AS last FROM i JOIN b
        ON b.user_id = i.user_id AND {on} GROUP BY i.id
    )
    SELECT coalesce(sum(len(last)), 0), coalesce(sum(list_sum(list_transform(last, lambda x: x::HUGEINT))), 0) FROM s
"""

# Use `replace`, because `{folder}` and `{length}` are filled in by `format` later.
RANGES = _BY_RANK.replace("{seen}", "k.r AS seen").replace("{on}", "b.r > i.seen - {length} AND b.r <= i.seen")
EQUAL = _BY_RANK.replace("{seen}", "unnest(range(greatest(k.r - {length} + 1, 1), k.r + 1)) AS place").replace(
    "{on}", "b.r = i.place"
)
QUERIES = {"lists": LISTS, "ranges": RANGES, "equal": EQUAL}


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
        columns: dict[str, Any] = {
            "user_id": np.searchsorted(bounds[:-1], rng.random(n), side="right"),
            "t": rng.integers(1, 86_400_000, n) * 1_000,
        }
        extra = {"impression_id": np.arange(n)} if name == "impressions" else {"item_id": rng.integers(0, 1_000_000, n)}
        pq.write_table(pa.table(columns | extra), folder / f"{name}.parquet", row_group_size=1_000_000)

    write(behaviours, "behaviours")
    write(impressions, "impressions")


def scan_with_spark(folder: str) -> None:
    """Run the sorted scan; prints seconds and checksums as JSON. Runs in a separate process."""
    from pyspark.sql import functions as F

    from star_ctr.conf.load import load
    from star_ctr.conf.settings.features import History, Sequence
    from star_ctr.features.point_in_time.events import LOG_DAY, SCALE, name_weight_column
    from star_ctr.features.point_in_time.scan_planner import add_history, compute_history
    from star_ctr.jobs.io.session import start

    settings = load("demo", ["spark.master=local[2]", "spark.driver_memory=2g"])
    sequence = Sequence(name="s", kind="sequence", of=["watch"], columns={"item_id": "i"}, length=LENGTH, gap=False)
    history = {"watch": History(impressions=True)}
    settings = settings.model_copy(update={"history": history, "features": [sequence], "zone": "UTC"})
    spark = start(settings, "history")
    spark.range(10).count()
    began = time.monotonic()
    behaviours = spark.read.parquet(f"{folder}/behaviours.parquet")
    events = behaviours.select(
        "user_id", "t", F.lit(0).cast("long").alias("order"), F.col("item_id").cast("string").alias("tie"), F.lit("1970-01-01").alias(LOG_DAY), F.lit(SCALE).alias(name_weight_column("watch")),
        F.col("item_id").cast("string").alias("item_id"),
    )  # fmt: skip
    impressions = spark.read.parquet(f"{folder}/impressions.parquet")
    rows = impressions.select(
        "user_id", "impression_id", F.timestamp_micros("t").alias("ts"), F.lit("1970-01-01").alias("ds")
    )
    stack = ExitStack()
    last = add_history(settings, rows, compute_history(settings, events), stack).select("s__item_id")
    total = F.aggregate(F.col("s__item_id"), F.lit(0).cast("long"), lambda a, x: a + x.cast("long"))
    found = last.agg(F.sum(F.size("s__item_id")), F.sum(total)).first()
    assert found is not None
    print(json.dumps([time.monotonic() - began, int(found[0]), int(found[1])]))


def query_duckdb(query: str, folder: str) -> None:
    """Run a query on two threads; prints seconds and checksums as JSON. Runs in a separate process."""
    connection = duckdb.connect()
    connection.execute("SET threads = 2")
    start = time.monotonic()
    length, total = connection.execute(query.format(folder=folder, length=LENGTH)).fetchone()  # type: ignore[misc]
    print(json.dumps([time.monotonic() - start, int(length), int(total)]))


def measure(way: str, folder: Path, limit: float | None = None) -> tuple[float, tuple[int, int] | None]:
    """Run a method in a separate process.

    Args:
        way: `spark` or a key of `QUERIES`.
        folder: The folder with the tables.
        limit: The maximum number of seconds; unlimited by default.

    Returns:
        The seconds and the checksums; no checksums if the method did not end within `limit` seconds.
    """
    command = [sys.executable, __file__, "--way", way, "--folder", str(folder)]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        assert limit is not None
        return limit, None
    if run.returncode != 0:
        raise SystemExit(f"{way}: {run.stderr[-2000:]}")
    seconds, length, total = json.loads(run.stdout.strip().splitlines()[-1])
    return seconds, (length, total)


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
        equal, equal_sums = measure("equal", folder)
        second, _ = measure("spark", folder)
        scan_seconds = (first + second) / 2
        # Stop queries that take nine times as long, because the result is already clear.
        ranges, range_sums = measure("ranges", folder, limit=9 * scan_seconds)
        lists, list_sums = measure("lists", folder, limit=9 * scan_seconds)
        assert sums == equal_sums, (sums, equal_sums)
        assert range_sums in (None, sums), (sums, range_sums)
        assert list_sums in (None, sums), (sums, list_sums)
    detail = f"{behaviours:,} behaviours x {impressions:,} impressions; sorted scan {first:.1f} s and {second:.1f} s"

    def make_entry(name: str, seconds: float, ended: bool, way: str, least: int, more: str = "") -> dict[str, Any]:
        reference = f"{detail}; DuckDB {seconds:.1f} s{'' if ended else ' (stopped before its end)'}{more}"
        return make_entry(
            name, seconds / scan_seconds, f"ratio of times: DuckDB with {way}", least, reference, least=True
        )

    more = f"; join on ranks {equal:.1f} s (ratio {equal / scan_seconds:.2f})"
    return [
        make_entry("history_vs_duckdb", lists, list_sums is not None, "filtered lists", 8),
        make_entry("history_vs_duckdb_ranks", ranges, range_sums is not None, "ranges of ranks", 1, more),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--behaviours", type=int, default=10_000_000, help="number of behaviours")
    parser.add_argument("--impressions", type=int, default=1_000_000, help="number of impressions")
    parser.add_argument("--way", choices=["spark", *QUERIES], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way == "spark":
        scan_with_spark(arguments.folder)
    elif arguments.way:
        query_duckdb(QUERIES[arguments.way], arguments.folder)
    else:
        for result in run(arguments.behaviours, arguments.impressions):
            print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
