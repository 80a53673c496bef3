"""Training whose processes are Spark tasks."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from star_ctr.conf.errors import UserError
from star_ctr.jobs.io.spark_launcher import launch_on_spark
from star_ctr.model.training.run import train
from tests.model.synthetic import assert_same_model, record, without_dropout, write_split

pytestmark = [pytest.mark.spark, pytest.mark.slow]


def test_two_tasks_train_the_same_model_as_one_process(spark: SparkSession, tmp_path: Path) -> None:
    write_split(tmp_path, part="test", rows={"a": 60, "b": 20})
    table = write_split(tmp_path)
    one = without_dropout(table, tmp_path / "one")
    train(one)
    two = without_dropout(table, tmp_path / "two", processes=2, launcher="spark")
    launch_on_spark(two)
    assert_same_model(one, two)
    assert record(two)["processes"] == 2


def test_more_processes_than_slots_are_rejected(spark: SparkSession, tmp_path: Path) -> None:
    table = write_split(tmp_path)
    with pytest.raises(UserError, match="Barrier execution mode.*trainer.processes=9"):
        launch_on_spark(without_dropout(table, tmp_path / "nine", processes=9, launcher="spark"))
