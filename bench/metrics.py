"""Benchmark: GAUC and AUC on Spark against DuckDB, for 10 million rows of 1 million users in 19 domains.

The number of rows per user is lognormal, the share of a domain is proportional to 1 / rank, and about a tenth of all
rows is clicked. Each method computes the metric of every domain and overall, and all results must agree to 1e-9. Each
method reads the same Parquet file on two threads, in a separate process. Before the measurement, the process does the
same twice with a tenth of the rows, because the JVM compiles in its first half minute, whatever the number of rows. The
time of Spark in a new process is reported, too.

The time of DuckDB is that of the fastest SQL query we know:

- `ranges`: a window over the ranges of a user's scores;
- `join`: a join of a user's positives with the negatives (quadratic in the rows of a user);
- `lists`: the scores of both classes as lists, which are compared with each other.

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
from entries import make_entry

DOMAINS = 19
REPLICATES = 200
"""Number of bootstrap samples in the measurements with a bootstrap."""
ROUNDS = 2
"""Number of measurements of each method."""
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
"""Seconds, and the metric by domain."""


def generate(file: Path, rows: int) -> None:
    """Write random scored rows. The number of users is a tenth of the number of rows."""
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


def evaluate_with_spark(way: str, files: list[str]) -> None:
    """Compute a metric for each of several files; prints seconds and values as JSON, one line per file.

    Args:
        way: `gauc` or `auc`, with `+N` for N bootstrap samples.
        files: The Parquet files.
    """
    from star_ctr.conf.load import load
    from star_ctr.features.evaluation import bootstrap
    from star_ctr.jobs.io.session import start

    settings = load("demo", ["spark.master=local[2]", "spark.driver_memory=2g"])
    spark = start(settings, "metrics")
    spark.range(10).count()
    name, _, samples = way.partition("+")
    evaluate = settings.evaluate.model_copy(update={"bootstrap_samples": int(samples or 0)})
    for file in files:
        began = time.monotonic()
        rows = getattr(bootstrap, name)(spark.read.parquet(file), evaluate).collect()
        print(json.dumps([time.monotonic() - began, {r.domain: r[f"{name}_all"][0] for r in rows}]))


def evaluate_with_duckdb(way: str, files: list[str]) -> None:
    """Run a query by domain and overall for each of several files; prints as `evaluate_with_spark`.

    Args:
        way: A key of `QUERIES`.
        files: The Parquet files.
    """
    connection = duckdb.connect()
    connection.execute("SET threads = 2")
    for file in files:
        start, found = time.monotonic(), []
        for domain in ("domain", "'overall'"):
            found += connection.execute(QUERIES[way].format(domain=domain, file=file)).fetchall()
        print(json.dumps([time.monotonic() - start, dict(found)]))


def measure(way: str, *files: Path) -> list[Found]:
    """Run a method in a separate process.

    Args:
        way: A key of `GAUC` or `auc.duckdb` for DuckDB; `gauc` or `auc`, perhaps with `+N`, for Spark.
        files: The Parquet files, in the order in which they are evaluated.

    Returns:
        The seconds and the values for each file.
    """
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
    """Measure GAUC against DuckDB and its growth with the rows, and return the entries of bench.json.

    Args:
        rows: The number of rows.
    """
    with tempfile.TemporaryDirectory() as name:
        large, small = Path(name) / "large.parquet", Path(name) / "small.parquet"
        generate(large, rows)
        generate(small, rows // 10)
        # Measure in turns, and use the shortest time of each method: other load can only make times longer.
        ways = ("gauc", *GAUC, "auc", "auc.duckdb")
        times: dict[str, list[float]] = {way: [] for way in (*ways, "small")}
        found: dict[str, dict[str, float]] = {}
        for way in ways * ROUNDS:
            _, (small_seconds, _), (seconds, found[way]) = measure(way, small, small, large)
            times[way].append(seconds)
            if way == "gauc":
                times["small"].append(small_seconds)
        cold = measure("gauc", large)[0][0]
        bootstrap_seconds = [measure(f"{way}+{REPLICATES}", small, large)[1][0] for way in ("gauc", "auc")]
    for way in GAUC:
        _check(way, found["gauc"], found[way])
    _check("auc", found["auc"], found["auc.duckdb"])
    least = {way: min(seconds) for way, seconds in times.items()}
    best = min(least[way] for way in GAUC)
    texts = {way: " and ".join(f"{t:.1f}" for t in seconds) + " s" for way, seconds in times.items()}
    detail = (
        f"{rows:,} rows; Spark {texts['gauc']} ({cold:.1f} s in a new process); DuckDB "
        f"{', '.join(f'{way} {texts[way]}' for way in GAUC)}; AUC: Spark {texts['auc']}, DuckDB {texts['auc.duckdb']}; "
        f"with {REPLICATES} bootstrap samples: GAUC {bootstrap_seconds[0]:.1f} s, AUC {bootstrap_seconds[1]:.1f} s"
    )
    growth = f"{rows // 10:,} rows {texts['small']}, {rows:,} rows {texts['gauc']}"
    return [
        make_entry("gauc_spark_vs_duckdb", least["gauc"] / best, "ratio of times to DuckDB's fastest query", 3, detail),
        make_entry(
            "gauc_ten_times_rows", least["gauc"] / least["small"], "ratio of times for ten times the rows", 11, growth
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="number of rows")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--files", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way in (*GAUC, "auc.duckdb"):
        evaluate_with_duckdb(arguments.way.removesuffix(".duckdb"), arguments.files)
    elif arguments.way:
        evaluate_with_spark(arguments.way, arguments.files)
    else:
        for result in run(arguments.rows):
            print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
