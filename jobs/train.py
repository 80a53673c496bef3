"""Train: a model on one night's split, pinned to the version of it, and its record in `runs`.

spark-submit --packages io.delta:delta-spark_2.13:4.0.1 jobs/train.py --conf conf/kuairand.yaml
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.compatibility import check_split
from star_ctr.conf.days import valid_day
from star_ctr.conf.errors import DataError
from star_ctr.conf.hashing import code_hash
from star_ctr.conf.identity import config_hash, refit_of, run_id, variant
from star_ctr.conf.layout import Layout
from star_ctr.conf.settings import Settings
from star_ctr.conf.tables import OF_NIGHT, SplitTables
from star_ctr.conf.vocabularies import vocabulary_files
from star_ctr.jobs.commits import split_commit
from star_ctr.jobs.launcher import launch_on_spark
from star_ctr.jobs.rows import any_of
from star_ctr.jobs.session import submitted
from star_ctr.jobs.starts import find_start
from star_ctr.jobs.store import Store
from star_ctr.model.job import TrainingJob, WarmStart
from star_ctr.model.train import launch

RUN = pa.schema(
    [
        ("run_id", pa.string()),
        ("ds", pa.string()),
        ("model", pa.string()),
        ("seed", pa.int64()),
        ("config", pa.string()),
        ("code", pa.string()),
        ("versions", pa.string()),
        ("rows", pa.int64()),
        ("seconds", pa.float64()),
        ("max_score_difference", pa.float64()),
        ("record", pa.string()),
    ]
)


def run(settings: Settings, spark: SparkSession, ds: str | None = None, resume: bool = False) -> dict[str, Any]:
    """Train night `ds`; returns the run's record without its bulk.

    A training that was broken off goes on from its checkpoint if nothing changed since; with `resume` it is an error if
    something did, or if there is no checkpoint.
    """
    store = Store(settings, spark)
    ds = valid_day(ds) if ds else store.days("split")[-1]
    return trained(settings, store, pinned(settings, store, ds), resume)


def trained(settings: Settings, store: Store, job: TrainingJob, resume: bool = False) -> dict[str, Any]:
    """Train a job, and write down what it did; returns its record without its bulk."""
    start = launch if job.trainer.launcher == "torchrun" else launch_on_spark
    start(job, resume)
    record = read_record(job.place)
    keep_vocabularies(job)
    write_runs(store, [(settings, record, None)])
    short = trained_rows(store, [(job, record)])
    if short:
        raise DataError(f"{', '.join(short)}: not all rows were trained on; see the ledger")
    return {k: record[k] for k in ("run_id", "steps", "parameters", "seconds", "resumed", "device", "processes")}


def trained_rows(store: Store, runs: Sequence[tuple[TrainingJob, dict[str, Any]]]) -> list[str]:
    """Write into the ledger what rows of the split some runs were trained on; returns the runs that miss some."""
    entries, short = [], []
    of_split: dict[tuple[str, int, str], list[tuple[str, int]]] = {}
    for job, record in runs:
        place = (job.split, job.versions["split"], job.ds)
        if place not in of_split:
            of_split[place] = rows_of_split(store, job, "train")
        # The record counts a row once a pass, the ledger once.
        passes = job.trainer.epochs
        trained = record["rows"]
        entries += [(job.run_id, job.ds, domain, n, trained.get(domain, 0) // passes) for domain, n in of_split[place]]
        if any(trained.get(domain, 0) != n * passes for domain, n in of_split[place]):
            short.append(job.run_id)
    store.write_run_ledger("train", entries)
    return short


def rows_of_split(store: Store, job: TrainingJob, part: str) -> list[tuple[str, int]]:
    """The rows of each domain in a part of the split that a job is pinned to."""
    rows = store.read(Path(job.split).name, job.versions["split"]).where(
        (F.col("ds") == job.ds) & (F.col("part") == part)
    )
    return sorted((r.domain, r["count"]) for r in rows.groupBy("domain").count().collect())


class Pin(NamedTuple):
    """What all trainings of a night stand on: versions of the tables, the split's layout, the trainer's code."""

    tables: SplitTables
    versions: dict[str, int]
    layout: Layout
    code: str


def pin(store: Store, ds: str, tables: SplitTables = OF_NIGHT) -> Pin:
    """The split's newest version of a night, with the layout that stands in that commit, and the code at hand."""
    store.read(tables.split)
    version, metadata = split_commit(store.warehouse.table(tables.split), ds)
    return Pin(
        tables,
        {"split": version, "vocabularies": metadata["vocabularies"]},
        Layout.model_validate(metadata["layout"]),
        code_hash(["star_ctr.model.train"]),
    )


def pinned(settings: Settings, store: Store, ds: str, to: Pin | None = None) -> TrainingJob:
    """The job of a night, pinned to what `pin` finds, or found before."""
    to = to or pin(store, ds)
    identity = run_id(settings, ds) if to.tables is OF_NIGHT else refit_of(run_id(settings, ds))
    return TrainingJob(
        run_id=identity,
        ds=ds,
        split=store.warehouse.table(to.tables.split),
        vocabularies=store.warehouse.table(to.tables.vocabularies),
        versions=to.versions,
        folder=store.warehouse.model(identity),
        code=to.code,
        layout=to.layout,
        model=settings.model,
        trainer=settings.trainer,
        settings=settings.model_dump(mode="json"),
        start=warm_start(settings, ds, to.layout),
    )


def warm_start(settings: Settings, ds: str, layout: Layout) -> WarmStart | None:
    """Find the run that the training of a night starts from, with the hash of its weights; None without one.

    Raises:
        UserError: Training cannot start from the run, or the run has changed since the split was written, so that
            `layout` (of the night's split) encodes rows differently.
    """
    start = find_start(settings, ds)
    if start is None:
        return None
    check_split(start.run_id, start.layout, layout)
    return WarmStart(run_id=start.run_id, folder=str(start.folder), weights=start.hash_weights())


def read_record(folder: Path) -> dict[str, Any]:
    """The record that a finished training left in its folder."""
    path = folder / "record.json"
    if not path.exists():
        raise DataError(f"{path}: not there; the training did not finish, run `star-ctr train` again")
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def keep_vocabularies(job: TrainingJob) -> None:
    """Put the vocabularies into the run's folder: a model encodes by its own, whatever later nights fit."""
    files = vocabulary_files(job.vocabularies, job.versions["vocabularies"], job.ds)
    target = job.place / "vocabularies"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for number, file in enumerate(sorted(files)):
        shutil.copyfile(file, target / f"part-{number:05d}.parquet")


def write_runs(store: Store, runs: Sequence[tuple[Settings, dict[str, Any], float | None]]) -> None:
    """Write the rows of some runs: settings, record, and the largest difference of scores once it is known."""
    rows = [
        (
            record["run_id"], record["ds"], variant(settings), record["seed"], config_hash(settings), record["code"],
            json.dumps(record["versions"]), sum(record["rows"].values()), float(record["seconds"]), difference,
            json.dumps({k: v for k, v in record.items() if k != "probe"}, sort_keys=True),
        )
        for settings, record, difference in runs
    ]  # fmt: skip
    store.put("runs", rows, RUN, any_of("run_id", [r[0] for r in rows]))


if __name__ == "__main__":
    submitted("train", run)
