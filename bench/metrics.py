"""GAUC and AUC at size: this project's Spark code against DuckDB, 10 M rows of 1 M users in 19 domains.

Users differ in how much they see (lognormal), domains share rows by 1 / rank, a tenth of all rows is clicked. Each way
reads the same Parquet file on two threads, in a process of its own that has done the same with a tenth of the rows
twice before (for what a JVM compiles in its first half minute hangs on no rows), and finds the metric of every domain
and overall; all results must agree to 1e-9. What ours takes in a process that has done nothing before stands beside it.
DuckDB's time is that of the fastest of the ways known to us in SQL:

- a window over the ranges of a user's scores;
- the positives of a user joined to the negatives (quadratic in what one user sees);
- the scores of both classes as lists, compared with one another.

    python bench/metrics.py [--rows 10000000]
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
from entries import entry

DOMAINS = 19
REPLICATES = 200
ROUNDS = 2
_BY_USER = """
    SELECT domain, sum((p + n) * w / (2 * p * n)) / sum(p + n) FROM ({}) GROUP BY ALL
"""
_ROWS = "(SELECT {domain} AS domain, user_id, label, score FROM '{file}')"
GAUC = {
    "ranges": _BY_USER.format(f"""
        SELECT domain, user_id, sum(label) AS p, sum(1 - label) AS n, sum(wins) AS w FROM (
          SELECT *, label * (
            2 * sum(1 - label) OVER (PARTITION BY domain, user_id ORDER BY score RANGE UNBOUNDED PRECEDING)
            - sum(1 - label) OVER (PARTITION BY domain, user_id ORDER BY score RANGE BETWEEN CURRENT ROW AND CURRENT ROW)
          ) AS wins FROM {_ROWS}
        ) GROUP BY ALL HAVING p > 0 AND n > 0"""),
    "join": _BY_USER.format(f"""
        WITH r AS {_ROWS}, b AS (
          SELECT domain, user_id, sum(label) AS p, sum(1 - label) AS n FROM r GROUP BY ALL HAVING p > 0 AND n > 0
        ), pos AS (SELECT r.* FROM r SEMI JOIN b USING (domain, user_id) WHERE label = 1),
        neg AS (SELECT r.* FROM r SEMI JOIN b USING (domain, user_id) WHERE label = 0),
        u AS (
          SELECT domain, user_id, sum((pos.score > neg.score)::INT + (pos.score >= neg.score)::INT) AS w
          FROM pos JOIN neg USING (domain, user_id) GROUP BY ALL
        ) SELECT * FROM u JOIN b USING (domain, user_id)"""),
    "lists": _BY_USER.format(f"""
        SELECT domain, len(ps) AS p, len(ns) AS n, list_sum(list_transform(
          ps, lambda a: len(list_filter(ns, lambda b: b < a)) + len(list_filter(ns, lambda b: b <= a)))) AS w
        FROM (
          SELECT domain, user_id, list(score) FILTER (label = 1) AS ps, list(score) FILTER (label = 0) AS ns
          FROM {_ROWS} GROUP BY ALL HAVING min(label) = 0 AND max(label) = 1)"""),
}  # fmt: skip
AUC = f"""
    SELECT domain, sum(pos * (2 * below - neg)) / (2 * sum(pos) * sum(neg)) FROM (
      SELECT *, sum(neg) OVER (PARTITION BY domain ORDER BY score ROWS UNBOUNDED PRECEDING) AS below FROM (
        SELECT domain, score, sum(label) AS pos, sum(1 - label) AS neg FROM {_ROWS} GROUP BY ALL)
    ) GROUP BY ALL
"""
QUERIES = {**GAUC, "auc": AUC}
Found = tuple[float, dict[str, float]]


def generate(file: Path, rows: int) -> None:
    """Scored rows of a tenth as many users."""
    rng = np.random.default_rng(0)
    activity = np.cumsum(rng.lognormal(0, 1, rows // 10))
    user = np.searchsorted(activity / activity[-1], rng.random(rows))
    share = 1 / np.arange(1, DOMAINS + 1)
    taste = rng.normal(size=rows)
    guess = 0.5 * taste + 0.5 * rng.normal(size=rows) - 2.5
    columns = {
        "run_id": pa.array(["2026-03-04-star-pn-aux-s0-0a1b2c3d"]).take(pa.array(np.zeros(rows, np.int64))),
        "user_id": pa.array(np.char.add("u", user.astype(str))),
        "domain": pa.array((1 + rng.choice(DOMAINS, rows, p=share / share.sum())).astype(str)),
        "label": (rng.random(rows) < 1 / (1 + np.exp(2.5 - taste))).astype(float),
        "score": (1 / (1 + np.exp(-guess))).astype(np.float32).astype(float),
    }
    pq.write_table(pa.table(columns), file, row_group_size=1_000_000)


def ours(way: str, files: list[str]) -> None:
    """Ours with some files one after the other; prints seconds and values a line."""
    from star_ctr.conf.load import load
    from star_ctr.features.evaluation import bootstrap
    from star_ctr.jobs.io.session import start

    settings = load("demo", ["spark.master=local[2]", "spark.driver_memory=2g"])
    spark = start(settings, "metrics")
    spark.range(10).count()
    name, _, replicates = way.partition("+")
    evaluate = settings.evaluate.model_copy(update={"replicates": int(replicates or 0)})
    for file in files:
        began = time.monotonic()
        rows = getattr(bootstrap, name)(spark.read.parquet(file), evaluate).collect()
        print(json.dumps([time.monotonic() - began, {r.domain: r[f"{name}_all"][0] for r in rows}]))


def duck(way: str, files: list[str]) -> None:
    """A query for the domains and for all together, for some files; prints seconds and values a line."""
    connection = duckdb.connect()
    connection.execute("SET threads = 2")
    for file in files:
        began, found = time.monotonic(), []
        for domain in ("domain", "'overall'"):
            found += connection.execute(QUERIES[way].format(domain=domain, file=file)).fetchall()
        print(json.dumps([time.monotonic() - began, dict(found)]))


def measure(way: str, *files: Path) -> list[Found]:
    """Seconds and values of a way for some files, one after the other in one process."""
    command = [sys.executable, __file__, "--way", way, "--files", *map(str, files)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise SystemExit(f"{way}: {run.stderr[-2000:]}")
    return [tuple(json.loads(line)) for line in run.stdout.strip().splitlines()[-len(files) :]]


def _check(name: str, left: dict[str, float], right: dict[str, float]) -> None:
    assert left.keys() == right.keys(), (name, left, right)
    for domain, value in left.items():
        assert abs(value - right[domain]) < 1e-9, (name, domain, value, right[domain])


def run(rows: int = 10_000_000) -> list[dict[str, Any]]:
    """GAUC against DuckDB, and at ten times the rows, as entries of bench.json."""
    with tempfile.TemporaryDirectory() as name:
        large, small = Path(name) / "large.parquet", Path(name) / "small.parquet"
        generate(large, rows)
        generate(small, rows // 10)
        # In turns, and of each way the quickest: what else a machine does can only add to a time.
        ways = ("gauc", *GAUC, "auc", "auc.duckdb")
        taken: dict[str, list[float]] = {way: [] for way in (*ways, "small")}
        found: dict[str, dict[str, float]] = {}
        for way in ways * ROUNDS:
            _, (of_small, _), (seconds, found[way]) = measure(way, small, small, large)
            taken[way].append(seconds)
            if way == "gauc":
                taken["small"].append(of_small)
        cold = measure("gauc", large)[0][0]
        drawn = [measure(f"{way}+{REPLICATES}", small, large)[1][0] for way in ("gauc", "auc")]
    for way in GAUC:
        _check(way, found["gauc"], found[way])
    _check("auc", found["auc"], found["auc.duckdb"])
    least = {way: min(times) for way, times in taken.items()}
    best = min(least[way] for way in GAUC)
    told = {way: " and ".join(f"{t:.1f}" for t in times) + " s" for way, times in taken.items()}
    detail = (
        f"{rows:,} rows; ours {told['gauc']} ({cold:.1f} s in a new process); DuckDB, {', '.join(f'{way} {told[way]}' for way in GAUC)}; "
        f"AUC: ours {told['auc']}, DuckDB {told['auc.duckdb']}; "
        f"with {REPLICATES} replicates: GAUC {drawn[0]:.1f} s, AUC {drawn[1]:.1f} s"
    )
    growth = f"{rows // 10:,} rows {told['small']}, {rows:,} rows {told['gauc']}"
    return [
        entry("gauc_spark_vs_duckdb", least["gauc"] / best, "times as long as DuckDB's best", 3, detail),
        entry(
            "gauc_ten_times_rows", least["gauc"] / least["small"], "times as long for ten times the rows", 11, growth
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--files", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way in (*GAUC, "auc.duckdb"):
        duck(arguments.way.removesuffix(".duckdb"), arguments.files)
    elif arguments.way:
        ours(arguments.way, arguments.files)
    else:
        for result in run(arguments.rows):
            print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
