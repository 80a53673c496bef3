"""History at size: the sorted pass against DuckDB, 10 M behaviours x 1 M impressions of power-law users.

One user alone has a million behaviours. Each way finds the last 50 items before every impression, and their
checksums must agree:

- the sorted pass (`features.sequences`) on Spark, driver and executor in one JVM of 2 GiB;
- DuckDB, the history of each user as a list, filtered for each impression (what is usually written);
- DuckDB, a join on ranges of the behaviours' ranks (the best way known in SQL).

    python bench/history.py [--behaviours 10000000 --impressions 1000000]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

LENGTH = 50
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
RANKS = """
    WITH b AS (
      SELECT user_id, t, item_id, row_number() OVER (PARTITION BY user_id ORDER BY t, item_id) AS r
      FROM '{folder}/behaviours.parquet'
    ), u AS (
      SELECT user_id, t, NULL AS id FROM b
      UNION ALL SELECT user_id, t, impression_id FROM '{folder}/impressions.parquet'
    ), n AS (
      SELECT user_id, id, count(*) FILTER (id IS NULL) OVER (
        PARTITION BY user_id ORDER BY t RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS seen FROM u
    ), i AS (SELECT * FROM n WHERE id IS NOT NULL),
    s AS (
      SELECT i.id, list(b.item_id ORDER BY b.r) AS last FROM i JOIN b
        ON b.user_id = i.user_id AND b.r > i.seen - {length} AND b.r <= i.seen GROUP BY i.id
    )
    SELECT coalesce(sum(len(last)), 0), coalesce(sum(list_sum(list_transform(last, lambda x: x::HUGEINT))), 0) FROM s
"""


def generate(folder: Path, behaviours: int, impressions: int) -> None:
    """Power-law users; the heaviest has a tenth of all behaviours (1 M of 10 M)."""
    rng = np.random.default_rng(0)
    users = max(behaviours // 50, 100)
    heavy = behaviours // 10

    def some_users(n: int, skew: float) -> np.ndarray:
        return 1 + np.floor((users - 1) * rng.random(n) ** skew).astype(np.int64)

    def table(user: np.ndarray, ids: bool) -> pa.Table:
        n = len(user)
        columns: dict[str, Any] = {"user_id": user, "t": rng.integers(1, 30 * 86_400, n) * 1_000_000}
        columns |= {"impression_id": np.arange(n)} if ids else {"item_id": rng.integers(0, 1_000_000, n)}
        return pa.table(columns)

    seen = np.concatenate([np.zeros(heavy, dtype=np.int64), some_users(behaviours - heavy, 3.0)])
    shown = np.concatenate(
        [np.zeros(impressions // 10_000, dtype=np.int64), some_users(impressions - impressions // 10_000, 2.0)]
    )
    pq.write_table(table(seen, False), folder / "behaviours.parquet", row_group_size=1_000_000)
    pq.write_table(table(shown, True), folder / "impressions.parquet", row_group_size=1_000_000)


def spark_pass(folder: str) -> None:
    """The sorted pass in a process of its own; prints seconds and checksums."""
    from pyspark.sql import functions as F

    from star_ctr.conf.features import History, Sequence
    from star_ctr.conf.load import load
    from star_ctr.features.sequences import sorted_pass
    from star_ctr.features.timeline import SCALE, weight
    from star_ctr.jobs.session import start

    settings = load("demo", ["spark.master=local[2]", "spark.driver_memory=2g"])
    settings = settings.model_copy(update={"history": {"watch": History(impressions=True)}})
    sequence = Sequence(name="s", kind="sequence", of=["watch"], columns={"item_id": "i"}, length=LENGTH, gap=False)
    spark = start(settings, "history")
    spark.range(10).count()
    began = time.monotonic()
    seen = spark.read.parquet(f"{folder}/behaviours.parquet")
    events = seen.select(
        "user_id", "t", F.lit(0).alias("order"), F.col("item_id").alias("tie"), F.lit(SCALE).alias(weight("watch")),
        F.col("item_id").cast("string").alias("item_id"),
    )  # fmt: skip
    shown = spark.read.parquet(f"{folder}/impressions.parquet")
    rows = shown.select(
        "user_id", "impression_id", F.timestamp_micros("t").alias("ts"), F.lit("2026-01-01").alias("ds")
    )
    last = sorted_pass(settings, rows, events, [sequence], "time").select("s__item_id")
    total = F.aggregate(F.col("s__item_id"), F.lit(0).cast("long"), lambda a, x: a + x.cast("long"))
    found = last.agg(F.sum(F.size("s__item_id")), F.sum(total)).first()
    assert found is not None
    print(json.dumps([time.monotonic() - began, int(found[0]), int(found[1])]))


def duck(query: str, folder: str) -> None:
    """A query in a process of its own, on two threads; prints seconds and checksums."""
    connection = duckdb.connect()
    connection.execute("SET threads = 2")
    began = time.monotonic()
    length, total = connection.execute(query.format(folder=folder, length=LENGTH)).fetchone()  # type: ignore[misc]
    print(json.dumps([time.monotonic() - began, int(length), int(total)]))


def measure(way: str, folder: Path, limit: float | None = None) -> tuple[float, tuple[int, int] | None]:
    """Seconds and checksums of one way; no checksums if it did not end within `limit` seconds."""
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
    """Both ratios as entries of bench.json."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(folder, behaviours, impressions)
        # The sorted pass before and after, so that a machine that changes its pace shows.
        first, sums = measure("spark", folder)
        ranks, rank_sums = measure("ranks", folder)
        second, _ = measure("spark", folder)
        ours = (first + second) / 2
        lists, list_sums = measure("lists", folder, limit=10 * ours)
        assert sums == rank_sums, (sums, rank_sums)
        assert list_sums in (None, sums), (sums, list_sums)
    at_least = " or more (stopped)" if list_sums is None else ""
    detail = f"{behaviours:,} behaviours x {impressions:,} impressions; ours {first:.1f} s and {second:.1f} s"
    return [
        {
            "name": "history_vs_duckdb", "value": round(lists / ours, 2), "unit": "times as long: DuckDB, filtered list",
            "goal": ">= 8", "holds": lists / ours >= 8, "reference": f"{detail}; DuckDB {lists:.1f} s{at_least}",
        },
        {
            "name": "history_vs_duckdb_ranks", "value": round(ranks / ours, 2),
            "unit": "times as long: DuckDB, rank ranges", "goal": ">= 1", "holds": ranks / ours >= 1, "reference": f"{detail}; DuckDB {ranks:.1f} s",
        },
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--behaviours", type=int, default=10_000_000)
    parser.add_argument("--impressions", type=int, default=1_000_000)
    parser.add_argument("--way", choices=["spark", "ranks", "lists"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way == "spark":
        spark_pass(arguments.folder)
    elif arguments.way:
        duck(RANKS if arguments.way == "ranks" else LISTS, arguments.folder)
    else:
        for entry in run(arguments.behaviours, arguments.impressions):
            print(json.dumps(entry, indent=1))


if __name__ == "__main__":
    main()
