"""Bulk scoring from table to table against the model's bare forward pass on the same rows in memory, two cores each.

Encoded rows: 19 domains, eight ids, twenty numbers and two 50-long sequences, the default model of seven layers. Raw rows: the
simulated impressions of four days with every feature of conf/demo.yaml, and the same seven layers. A part of the rows is
scored first, as what a JVM compiles and Python workers import in their first half minute hangs on no rows; then the clock
starts: reading, features, encoding, the checks and writing are in it. What the same takes in a new session is told beside it.

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
from entries import entry
from made_split import job_of, layout_of
from pyspark.sql import SparkSession

from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.files import hash_file
from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings
from star_ctr.model.data.reader import unpack_columns
from star_ctr.model.export import Predictor, export
from star_ctr.model.models.multi_domain import MultiDomainModel

RUN = "measured"
A_PART = {True: "domain_id = 3", False: "domain = 'd03'"}
"""Encoded rows, raw rows: one domain of nineteen."""
ROUNDS = 3
MODEL = "model={name: star}"
"""The default model: the paper's layers, embeddings of 16."""


def finished_run(settings: Settings, layout: Layout) -> Path:
    """The folder of a run as training leaves it, with a model as it is before the first step."""
    from star_ctr.conf.contracts.catalog import Warehouse
    from star_ctr.jobs.registry.attempts import get_attempt_folder

    folder = get_attempt_folder(Warehouse(settings.paths), RUN, 1)
    torch.manual_seed(0)
    export(MultiDomainModel(layout, settings.model).eval(), settings.model, layout, folder)
    files = {name: hash_file(folder / name) for name in ("layout.json", "model.safetensors")}
    record = {"run_id": RUN, "ds": layout.ds, "settings": settings.model_dump(mode="json"), "files": files}
    (folder / "record.json").write_text(json.dumps(record))
    return folder


def forward(folder: str, table: str) -> None:
    """Predict all encoded rows of a table from memory, in a process of its own; prints rows a second."""
    torch.set_num_threads(2)
    predictor = Predictor(Path(folder))
    files = pads.dataset([uri.removeprefix("file://") for uri in DeltaTable(table).file_uris()])
    rows = files.to_table(columns=["ints", "floats", "domain_id"])
    parts = [unpack_columns(b["ints"], b["floats"], predictor.layout) for b in rows.to_batches()]
    ints, floats = (np.concatenate([p[k] for p in parts]) for k in (0, 1))
    domains = rows["domain_id"].to_numpy().astype(np.int32)

    def rate(rows: int, size: int) -> float:
        began = time.perf_counter()
        for k in range(0, rows, size):
            predictor.predict(ints[k : k + size], floats[k : k + size], domains[k : k + size])
        return rows / (time.perf_counter() - began)

    some = min(len(domains), 100_000)
    size = max((2_048, 4_096, 16_384), key=lambda size: rate(some, size))
    print(json.dumps([rate(len(domains), size), size]))


def scored(
    settings: Settings, spark: SparkSession, source: str, target: str, encoded: bool, where: str | None = None
) -> float:
    """Rows a second of bulk scoring."""
    from star_ctr.jobs.tools import batch_score

    began = time.perf_counter()
    told = batch_score.run(settings, spark, run_id=RUN, source=source, target=target, encoded=encoded, where=where)
    seconds = time.perf_counter() - began
    return float(told["rows"]) / seconds


class Compared(NamedTuple):
    """How many times the forward pass's rows/s, the median of the rounds; all rates in words."""

    ratio: float
    told: str


def compared(settings: Settings, spark: SparkSession, folder: Path, source: str, split: str, encoded: bool) -> Compared:
    """Bulk scoring and the forward pass in turns, so that a machine that changes its pace meets both."""
    target = f"{settings.paths.warehouse}-scored-{encoded}"
    new = scored(settings, spark, source, target, encoded, A_PART[encoded])
    command = [sys.executable, __file__, "--forward", str(folder), split]
    ours, bare = [], []
    for turn in range(ROUNDS + 1):
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rate, size = json.loads(done.stdout.splitlines()[-1])
        bare.append(float(rate))
        if turn < ROUNDS:
            ours.append(scored(settings, spark, source, target, encoded))
    ratios = [rate / statistics.mean(around) for rate, around in zip(ours, pairwise(bare), strict=True)]
    every = " ".join(f"{rate:,.0f}" for rate in ours)
    told = (
        f"{every} rows/s; forward alone {' '.join(f'{rate:,.0f}' for rate in bare)} rows/s, {size:,} at once; a part of "
        f"them first, in a new session, {new:,.0f} rows/s"
    )
    return Compared(statistics.median(ratios), told)


def encoded_rows(spark: SparkSession, folder: Path, rows: int) -> dict[str, Any]:
    """The entry of encoded rows."""
    settings = load("demo", [MODEL, f"paths.warehouse={folder}/made", f"paths.logs={folder}"])
    split = job_of(folder, rows).split
    model = finished_run(settings, layout_of())
    found = compared(settings, spark, model, split, split, True)
    return entry("bulk_scoring_vs_forward", found.ratio, "times its rows/s", 0.5,
                 f"{rows:,} encoded rows, median of {ROUNDS}: {found.told}", least=True)  # fmt: skip


def raw_rows(spark: SparkSession, folder: Path, rows: int) -> dict[str, Any]:
    """The entry of raw rows."""
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
    job = make_job(settings, store, store.days("split")[-1])
    model = finished_run(settings, job.layout)
    copy_vocabularies(job.for_attempt(1, model))
    source, rows_of_split = f"{folder}/logs/impressions", store.warehouse.table("split")
    found = compared(settings, spark, model, source, rows_of_split, False)
    return entry("bulk_scoring_raw_vs_forward", found.ratio, "times its rows/s", 0.1,
                 f"{rows:,} raw rows with their features, median of {ROUNDS}: {found.told}", least=True)  # fmt: skip


def run(rows: int = 2_000_000) -> Iterator[dict[str, Any]]:
    """Both ratios as entries of bench.json, each as it is known; a quarter as many raw rows as encoded ones."""
    from star_ctr.jobs.io.session import start

    spark = start(load("demo", ["spark.master=local[2]"]), "bulk")
    try:
        with tempfile.TemporaryDirectory() as name:
            spark.range(10).count()
            yield encoded_rows(spark, Path(name), rows)
            yield raw_rows(spark, Path(name), rows // 4)
    finally:
        spark.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--forward", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.forward:
        forward(*arguments.forward)
        return
    for result in run(arguments.rows):
        print(json.dumps(result, indent=1), flush=True)


if __name__ == "__main__":
    main()
