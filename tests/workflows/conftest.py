"""A small night that tests share."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

from tests.workflows.small_night import Night


@pytest.fixture(scope="session")
def night(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Night:
    return Night(tmp_path_factory.mktemp("shop"), spark)
