"""The columns of a row that features read."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from star_ctr.conf.errors import DataError
from star_ctr.features.point_in_time.row_columns import select_row_columns
from tests.jobs.messy_logs import settings


@pytest.mark.spark
@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({}, r"features.tag: `impressions.tags` holds lists; make it a categorical feature with `multiple: true`"),
        (
            {"column": ["impressions.tags", "domain"]},
            r"features.tag: `impressions.tags` holds lists; choose a column of",
        ),
        ({"separator": "|"}, r"features.tag: `impressions.tags` holds lists, and features.tags splits them at another"),
        ({"multiple": True}, None),
    ],
)
def test_two_features_of_a_column_of_lists(
    tmp_path: Path, spark: SparkSession, more: dict[str, Any], problem: str | None
) -> None:
    tags = {"kind": "categorical", "column": "impressions.tags"}
    conf = settings(tmp_path, features=[{"name": "tags", "multiple": True, **tags}, {"name": "tag", **tags, **more}])
    rows = spark.createDataFrame([(["a", "b"],), ([],)], "impressions_tags array<string>")
    with pytest.raises(DataError, match=problem) if problem else nullcontext():
        found = rows.select(*select_row_columns(conf, rows)).collect()
        assert [r.impressions_tags for r in found] == ["a\x1fb", ""]
