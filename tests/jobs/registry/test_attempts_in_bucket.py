"""Attempts, the serving model and their removal if the warehouse is in an object store."""

from __future__ import annotations

import json
from pathlib import Path

from deltalake import write_deltalake

from star_ctr.conf.contracts.catalog import RECORD_FILE, WEIGHTS_FILE, Warehouse
from star_ctr.conf.files import open_folder
from star_ctr.conf.load import load
from star_ctr.jobs.registry.attempts import (
    assign_attempt,
    check_files,
    find_damaged_files,
    get_attempt,
    list_all_attempts,
    publish_attempt,
)
from star_ctr.jobs.registry.decisions import Decisions
from star_ctr.jobs.tools import vacuum
from star_ctr.model.train import write_job
from star_ctr.model.training.job import TrainingJob
from star_ctr.model.training.run import train
from tests.model.synthetic import job, with_vocabularies, write_split

RUN = "2026-01-02-star"


def test_attempts_in_a_bucket(bucket: str, tmp_path: Path) -> None:
    """They are published whole, reused, served, and deleted; numbers of deleted attempts are not used again."""
    url = bucket.replace("s3://", "s3a://")
    settings = load("demo", [f"paths.warehouse={url}/a shop", "retention.attempts=0"])
    warehouse = Warehouse(settings.paths)
    local = with_vocabularies(job(write_split(tmp_path, {"a": 80, "b": 40}), tmp_path), tmp_path)

    def train_attempt(code: str) -> TrainingJob:
        given = local.model_copy(
            update={
                "run_id": RUN,
                "code": code,
                "trainer": local.trainer.model_copy(update={"seed": len(code)}),
            }
        )
        assigned = assign_attempt(warehouse, given)
        if not get_attempt(assigned).is_published:
            write_job(assigned)
            train(assigned)
            publish_attempt(assigned)
        return assigned

    first = train_attempt("a")
    assert (first.attempt, str(first.path)) == (1, f"{url}/a shop/models/{RUN}/attempt-001")
    assert train_attempt("a").attempt == 1
    second = train_attempt("bb")
    assert second.attempt == 2
    assert warehouse.list_finished_runs() == [RUN]
    assert [a.number for a in list_all_attempts(warehouse)] == [1, 2]
    assert find_damaged_files(check_files(get_attempt(second))) == []
    vocabularies = [*(second.path / "vocabularies").glob("*.parquet")]
    assert len(vocabularies) == 1

    Decisions(settings).promote(RUN, "tested", by="ann")
    pointer = json.loads((open_folder(warehouse.root) / "serving.json").read_text())
    assert (pointer["run_id"], pointer["attempt"], pointer["model"]) == (RUN, 2, str(second.path))

    write_deltalake(warehouse.table("features").replace("s3a://", "s3://"), _make_rows(), partition_by=["ds"])
    plan = vacuum.plan_removals(settings)
    assert [a.number for a in plan.attempts] == [1]
    vacuum.remove(settings, plan)
    assert not (first.path / RECORD_FILE).exists()
    assert [a.number for a in list_all_attempts(warehouse)] == [2]
    assert vacuum.plan_removals(settings).attempts == []
    assert train_attempt("ccc").attempt == 3
    (second.path / WEIGHTS_FILE).write_bytes(b"damaged")
    assert find_damaged_files(get_attempt(second)) == [WEIGHTS_FILE]


def _make_rows() -> object:
    import pandas as pd

    return pd.DataFrame({"ds": ["2026-01-02"], "x": [1]})
