"""Benchmark: batch scoring from table to table, relative to the forward pass of the model alone.

Both run on two cores and on the same rows. The forward pass reads its rows from memory. Batch scoring also reads,
computes features, encodes, checks and writes. Rates are rows per second of processor time, of all processes, so that
other work on the machine changes them little.

- Encoded rows: 19 domains, eight ids, twenty numbers, two sequences of length 50; the default model with seven layers.
- Raw rows: simulated impressions of four days with all features of conf/demo.yaml, and the same seven layers.

A part of the rows is scored before the measurement, because the JVM compiles and Python workers import modules in their
first half minute, whatever the number of rows. The rate of this first run in a new session is reported, too.

    python bench/bulk.py [--rows 2000000]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.dataset as pads
import torch
from deltalake import DeltaTable
from entries import make_entry
from processor_time import read_tree_seconds
from pyspark.sql import SparkSession
from synthetic_split import make_job, make_layout

from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.files import hash_file
from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings
from star_ctr.model.data.reader import unpack_columns
from star_ctr.model.export import export
from star_ctr.model.models.multi_domain import MultiDomainModel
from star_ctr.model.predictor import Predictor

RUN = "measured"
"""Id of the run whose model scores the rows."""
WARM_UP = {True: "domain_id = 3", False: "domain = 'd03'"}
"""Condition of the rows that are scored before the measurement, by whether rows are encoded: one domain of nineteen."""
ROUNDS = 3
"""Number of measurements of batch scoring; the forward pass is measured before and after each."""
MODEL = "model={name: star}"
"""Override for the default model: the layers of the paper, and embeddings of width 16."""


def write_run(settings: Settings, layout: Layout) -> Path:
    """Write a published run with an untrained model, and return the folder of its attempt."""
    from star_ctr.conf.contracts.catalog import Warehouse
    from star_ctr.jobs.registry.attempts import get_attempt_folder

    folder = get_attempt_folder(Warehouse(settings.paths), RUN, 1)
    torch.manual_seed(0)
    export(MultiDomainModel(layout, settings.model).eval(), settings.model, layout, folder)
    files = {name: hash_file(folder / name) for name in ("layout.json", "model.safetensors")}
    record = {"run_id": RUN, "ds": layout.ds, "settings": settings.model_dump(mode="json"), "files": files}
    (folder / "record.json").write_text(json.dumps(record))
    return folder


def measure_forward(folder: str, table: str) -> None:
    """Predict all encoded rows of a table from memory; prints rows per core second and rows per call as JSON.

    Runs in a separate process. Uses the fastest of three numbers of rows per call.

    Args:
        folder: The folder of the model.
        table: The path of the table with the encoded rows.
    """
    torch.set_num_threads(2)
    predictor = Predictor(Path(folder))
    files = pads.dataset([uri.removeprefix("file://") for uri in DeltaTable(table).file_uris()])
    rows = files.to_table(columns=["ints", "floats", "domain_id"])
    parts = [unpack_columns(b["ints"], b["floats"], predictor.layout) for b in rows.to_batches()]
    ints, floats = (np.concatenate([p[k] for p in parts]) for k in (0, 1))
    domains = rows["domain_id"].to_numpy().astype(np.int32)

    def compute_rate(rows: int, size: int) -> float:
        start = time.process_time()
        for k in range(0, rows, size):
            predictor.predict(ints[k : k + size], floats[k : k + size], domains[k : k + size])
        return rows / (time.process_time() - start)

    sample = min(len(domains), 100_000)
    size = max((2_048, 4_096, 16_384), key=lambda size: compute_rate(sample, size))
    print(json.dumps([compute_rate(len(domains), size), size]))


def measure_bulk(
    settings: Settings, spark: SparkSession, source: str, target: str, encoded: bool, where: str | None = None
) -> float:
    """Score a table, and return rows per core second.

    Args:
        settings: The settings.
        spark: The Spark session.
        source: The table with the rows.
        target: The table for the scores.
        encoded: Whether the rows are encoded.
        where: A condition on the rows; all rows by default.
    """
    from star_ctr.jobs.tools import batch_score

    start = read_tree_seconds()
    result = batch_score.run(settings, spark, run_id=RUN, source=source, target=target, encoded=encoded, where=where)
    return float(result["rows"]) / (read_tree_seconds() - start)


class Comparison(NamedTuple):
    """A comparison of batch scoring with the forward pass.

    Attributes:
        ratio: The rate of batch scoring divided by that of the forward pass; the median of the rounds.
        detail: A text with all rates, in rows per core second.
    """

    ratio: float
    detail: str


def compare(
    settings: Settings, spark: SparkSession, folder: Path, source: str, split: str, encoded: bool
) -> Comparison:
    """Measure batch scoring and the forward pass in turns, so that a change of the machine's speed affects both.

    Args:
        settings: The settings.
        spark: The Spark session.
        folder: The folder of the model.
        source: The table for batch scoring.
        split: The table with the encoded rows for the forward pass.
        encoded: Whether the rows of `source` are encoded.
    """
    target = f"{settings.paths.warehouse}-scored-{encoded}"
    first = measure_bulk(settings, spark, source, target, encoded, WARM_UP[encoded])
    command = [sys.executable, __file__, "--forward", str(folder), split]
    bulk, forward = [], []
    for turn in range(ROUNDS + 1):
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rate, size = json.loads(done.stdout.splitlines()[-1])
        forward.append(float(rate))
        if turn < ROUNDS:
            bulk.append(measure_bulk(settings, spark, source, target, encoded))
    ratios = [rate / statistics.mean(around) for rate, around in zip(bulk, pairwise(forward), strict=True)]
    detail = (
        f"{' '.join(f'{rate:,.0f}' for rate in bulk)} rows per core second; forward pass alone "
        f"{' '.join(f'{rate:,.0f}' for rate in forward)}, {size:,} rows per call; a part of the rows in a new "
        f"session {first:,.0f}"
    )
    return Comparison(statistics.median(ratios), detail)


def measure_encoded(spark: SparkSession, folder: Path, rows: int) -> dict[str, Any]:
    """Measure the scoring of encoded rows, and return the entry of bench.json."""
    settings = load("demo", [MODEL, f"paths.warehouse={folder}/made", f"paths.logs={folder}"])
    split = make_job(folder, rows).split
    model = write_run(settings, make_layout())
    found = compare(settings, spark, model, split, split, True)
    return make_entry("batch_scoring_vs_forward", found.ratio, "ratio of rows per core second", 0.7,
                 f"{rows:,} encoded rows, median of {ROUNDS}: {found.detail}", least=True)  # fmt: skip


def measure_raw(spark: SparkSession, folder: Path, rows: int) -> dict[str, Any]:
    """Measure the scoring of raw rows, and return the entry of bench.json."""
    from star_ctr.jobs import features, ingest, split
    from star_ctr.jobs.io.warehouse import WarehouseTables
    from star_ctr.jobs.registry.attempts import copy_vocabularies
    from star_ctr.jobs.tools import simulate
    from star_ctr.jobs.train import make_job

    settings = load("demo", [
        MODEL, f"paths.warehouse={folder}/simulated", f"paths.logs={folder}/logs",
        f"simulate={{impressions: {rows}, days: 4, first_day: 2026-01-05, users: {rows // 30}, items: 5000, seed: 1}}",
    ])  # fmt: skip
    simulate.run(settings, spark)
    for step in (ingest, features, split):
        step.run(settings, spark)  # type: ignore[attr-defined]
    store = WarehouseTables(settings, spark)
    job = make_job(settings, store, store.list_days("split")[-1])
    model = write_run(settings, job.layout)
    copy_vocabularies(job.for_attempt(1, model))
    found = compare(settings, spark, model, f"{folder}/logs/impressions", store.warehouse.table("split"), False)
    return make_entry("batch_scoring_raw_vs_forward", found.ratio, "ratio of rows per core second", 0.2,
                 f"{rows:,} raw rows with their features, median of {ROUNDS}: {found.detail}", least=True)  # fmt: skip


def run(rows: int = 2_000_000) -> Iterator[dict[str, Any]]:
    """Yield the entries of bench.json for encoded and raw rows, each as soon as it is measured.

    Args:
        rows: The number of encoded rows. A quarter of it is the number of raw rows.
    """
    from star_ctr.jobs.io.session import start

    spark = start(load("demo", ["spark.master=local[2]"]), "bulk")
    try:
        with tempfile.TemporaryDirectory() as name:
            spark.range(10).count()
            yield measure_encoded(spark, Path(name), rows)
            yield measure_raw(spark, Path(name), rows // 4)
    finally:
        spark.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000, help="number of encoded rows")
    parser.add_argument("--forward", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.forward:
        measure_forward(*arguments.forward)
        return
    for result in run(arguments.rows):
        print(json.dumps(result, indent=1), flush=True)


if __name__ == "__main__":
    main()
