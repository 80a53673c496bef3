"""Train: a model on one night's split, pinned to the version of it, and its record in `runs`.

spark-submit --packages io.delta:delta-spark_2.13:4.0.1 jobs/train.py --conf conf/kuairand.yaml
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from deltalake import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.errors import DataError
from star_ctr.conf.identity import code_hash, config_hash, run_id, variant
from star_ctr.conf.layout import Layout
from star_ctr.conf.settings import Settings
from star_ctr.jobs.ingest import valid_day
from star_ctr.jobs.session import submitted
from star_ctr.jobs.split import vocabulary_files
from star_ctr.jobs.store import Store, quoted
from star_ctr.model.job import TrainingJob
from star_ctr.model.train import launch

RUN = (
    "run_id string, ds string, model string, seed long, config string, code string, versions string, "
    "rows long, seconds double, max_score_difference double, record string"
)


def run(settings: Settings, spark: SparkSession, ds: str | None = None) -> dict[str, Any]:
    """Train night `ds`; returns the run's record without its bulk."""
    store = Store(settings, spark)
    ds = valid_day(ds) if ds else store.days("split")[-1]
    job = pinned(settings, store, ds)
    launch(job)
    record = read_record(job.place)
    _keep_vocabularies(store, job)
    write_run(store, settings, record)
    domains = [*job.layout.domains, "other"]
    of_split = {
        r.domain: r["count"]
        for r in store.read("split", job.versions["split"])
        .where((F.col("ds") == ds) & (F.col("part") == "train"))
        .groupBy("domain")
        .count()
        .collect()
    }
    # The record counts a row once a pass, the ledger once.
    passes = settings.trainer.epochs
    rows = [(ds, d, of_split[d], record["rows"].get(d, 0) // passes, "") for d in domains if d in of_split]
    store.write_ledger("train", store.ledger_rows(rows), [ds], job.run_id)
    short = [d for d in of_split if record["rows"].get(d, 0) != of_split[d] * passes]
    if short:
        raise DataError(f"{job.run_id}: rows of domain {', '.join(short)} were not all trained on; see the ledger")
    return {k: record[k] for k in ("run_id", "steps", "parameters", "seconds", "resumed", "device", "processes")}


def pinned(settings: Settings, store: Store, ds: str) -> TrainingJob:
    """The job of a night: the split's newest version of it, with the layout that stands in that commit."""
    table = store.warehouse.table("split")
    store.read("split")
    version, metadata = split_commit(table, ds)
    identity = run_id(settings, ds)
    return TrainingJob(
        run_id=identity,
        ds=ds,
        split=table,
        versions={"split": version, "vocabularies": metadata["vocabularies"]},
        folder=store.warehouse.model(identity),
        code=code_hash(["star_ctr.model.train"]),
        layout=Layout.model_validate(metadata["layout"]),
        model=settings.model,
        trainer=settings.trainer,
        settings=settings.model_dump(mode="json"),
    )


def split_commit(table: str, ds: str) -> tuple[int, dict[str, Any]]:
    """The newest version of the split that wrote night `ds`, and the metadata of that commit."""
    for commit in DeltaTable(table).history():
        text = commit.get("userMetadata")
        metadata = json.loads(text) if text else {}
        if metadata.get("ds") == ds:
            return int(commit["version"]), metadata
    raise DataError(f"{table}: holds no night {ds}; run `star-ctr split --ds {ds}`")


def read_record(folder: Path) -> dict[str, Any]:
    """The record that a finished training left in its folder."""
    path = folder / "record.json"
    if not path.exists():
        raise DataError(f"{path}: not there; the training did not finish, run `star-ctr train` again")
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def _keep_vocabularies(store: Store, job: TrainingJob) -> None:
    """Put the vocabularies into the run's folder: a model encodes by its own, whatever later nights fit."""
    files = vocabulary_files(store.warehouse.table("vocabularies"), job.versions["vocabularies"], job.ds)
    target = job.place / "vocabularies"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for number, file in enumerate(sorted(files)):
        shutil.copyfile(file, target / f"part-{number:05d}.parquet")


def write_run(store: Store, settings: Settings, record: dict[str, Any], difference: float | None = None) -> None:
    """Write the run's row; the scorer writes it again with the largest difference of scores that it found."""
    kept = {k: v for k, v in record.items() if k != "probe"}
    row = (
        record["run_id"], record["ds"], variant(settings), record["seed"], config_hash(settings), record["code"],
        json.dumps(record["versions"]), sum(record["rows"].values()), float(record["seconds"]), difference,
        json.dumps(kept, sort_keys=True),
    )  # fmt: skip
    rows = store.spark.createDataFrame([row], RUN)
    store.replace("runs", rows.coalesce(1), f"run_id = {quoted(record['run_id'])}")


if __name__ == "__main__":
    submitted("train", run)
