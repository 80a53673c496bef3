"""A log that is a table of a database, read with Spark's JDBC catalog."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from star_ctr.jobs import ingest
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.tools import check
from tests.jobs.messy_logs import DAYS, DS, settings, views


@pytest.mark.spark
def test_impressions_in_a_database(tmp_path: Path, spark: SparkSession) -> None:
    url, driver = f"jdbc:derby:{tmp_path}/shop;create=true", "org.apache.derby.iapi.jdbc.AutoloadedDriver"
    catalog = "spark.sql.catalog.shop"
    spark.conf.set(catalog, "org.apache.spark.sql.execution.datasources.v2.jdbc.JDBCTableCatalog")
    spark.conf.set(f"{catalog}.url", url)
    spark.conf.set(f"{catalog}.driver", driver)
    spark.sql("CREATE NAMESPACE shop.ADS")
    rows = views()
    writer = spark.createDataFrame(rows).write.format("jdbc").option("url", url).option("driver", driver)
    writer.option("dbtable", "ADS.VIEWS").save()
    conf = settings(tmp_path, {"path": None, "table": "shop.ADS.VIEWS", "day": {"column": "day"}})

    (report,) = check.run(conf, spark)
    assert (report["problems"], report["rows"], report["days"]) == ([], len(rows), list(DAYS))
    ingest.run(conf, spark, DS)
    found = WarehouseTables(conf, spark).read("impressions").toPandas()
    assert set(found["impression_id"]) == set(rows["view"])
    assert dict(found.groupby("ds").size()) == dict(rows.groupby("day").size())
