"""Tables in Spark's catalog: in memory, and in a Hive metastore."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from star_ctr.conf.contracts.catalog import TABLES
from star_ctr.conf.errors import ConfigError
from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io import table_catalog
from star_ctr.jobs.io.table_catalog import create_database, register_tables
from star_ctr.workflows import nightly
from star_ctr.workflows.journal import Journal
from tests.conftest import INTERPRETED, ROOT
from tests.workflows.synthetic_nights import NIGHTS, SyntheticNights


def write_tables(folder: Path) -> set[str]:
    """Write some tables as nights do, and return their names."""
    nights = SyntheticNights(folder)
    nights.ledger(NIGHTS[0])
    nights.metrics(NIGHTS[0])
    nights.step(NIGHTS[0], "ingest")
    return {"ledger", "metrics", "steps"}


def load_with_catalog(folder: Path, database: str, *more: str) -> Settings:
    return load("demo", [f"paths.warehouse={folder}", f"catalog.database={database}", *more])


@pytest.mark.spark
def test_tables_are_registered_once_with_their_comments(tmp_path: Path, spark: SparkSession) -> None:
    settings, names = load_with_catalog(tmp_path, "registered"), write_tables(tmp_path)
    create_database(settings, spark)
    assert set(register_tables(settings, spark)) == names
    rows = spark.sql("SELECT domain, sum(rows_in) AS n FROM registered.ledger GROUP BY domain").collect()
    by_path = spark.read.format("delta").load(f"{tmp_path}/ledger").groupBy("domain").sum("rows_in").collect()
    assert sorted((r.domain, r.n) for r in rows) == sorted((r.domain, r["sum(rows_in)"]) for r in by_path)
    described = {r.col_name: r for r in spark.sql("DESCRIBE TABLE EXTENDED registered.steps").collect()}
    assert described["Type"].data_type == "EXTERNAL"
    assert described["Comment"].data_type == TABLES["steps"].about
    assert described["state"].comment == TABLES["steps"].columns["state"]
    versions = {name: sorted(p.name for p in (tmp_path / name / "_delta_log").glob("*.json")) for name in names}
    table_catalog._verified.clear()
    create_database(settings, spark)
    assert set(register_tables(settings, spark)) == names, "registration is idempotent"
    now = {name: sorted(p.name for p in (tmp_path / name / "_delta_log").glob("*.json")) for name in names}
    assert now == versions, "registration writes no commit"
    spark.sql("DROP TABLE registered.metrics")
    spark.range(1).createOrReplaceTempView("metrics")
    assert set(register_tables(settings, spark)) == names, "the data of a dropped table remains; a view is no table"
    spark.catalog.dropTempView("metrics")
    assert spark.table("registered.metrics").count() > 0


@pytest.mark.spark
def test_another_table_of_the_same_name_is_not_replaced(
    tmp_path: Path, spark: SparkSession, caplog: pytest.LogCaptureFixture
) -> None:
    write_tables(tmp_path / "a")
    write_tables(tmp_path / "b")
    ours = load_with_catalog(tmp_path / "a", "shared_database")
    create_database(ours, spark)
    register_tables(ours, spark)
    with caplog.at_level(logging.WARNING, "star_ctr"):
        assert register_tables(load_with_catalog(tmp_path / "b", "shared_database"), spark) == []
    assert caplog.messages[0] == (
        "catalog.database: `spark_catalog`.`shared_database`.`metrics` is another table, at "
        f"file:{tmp_path}/a/metrics; drop it with `DROP TABLE `spark_catalog`.`shared_database`.`metrics``, or set "
        "another database"
    )
    assert {Path(f).parts[-3] for f in spark.table("shared_database.metrics").inputFiles()} >= {"metrics"}


@pytest.mark.spark
def test_a_catalog_that_does_not_exist_is_an_error_before_the_step(tmp_path: Path, spark: SparkSession) -> None:
    settings = load_with_catalog(tmp_path, "ads", "catalog.name=unity")
    with pytest.raises(
        ConfigError, match=r"catalog.name: Spark cannot .* `unity`.*; set spark.sql.catalog.unity in spark.conf"
    ):
        nightly.run_step(settings, spark, "evaluate", NIGHTS[0], "requested")
    assert not Journal(settings).read_entries(), "the step did not start"
    spark.conf.set("spark.sql.catalog.broken", "no.such.Plugin")
    with pytest.raises(ConfigError, match=r"catalog.name: Spark cannot .* `broken`"):
        create_database(load_with_catalog(tmp_path, "ads", "catalog.name=broken"), spark)


@pytest.mark.spark
def test_a_catalog_that_is_down_does_not_fail_a_step(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_tables(tmp_path)
    settings = load_with_catalog(tmp_path, "unreachable")

    def fail(*_: object) -> None:
        raise OSError("java.net.ConnectException: Connection refused")

    monkeypatch.setitem(nightly.ACTIONS, "evaluate", lambda *_: [{"rows": 3}])
    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING, "star_ctr"):
        patched.setattr(type(spark), "sql", fail)
        assert nightly.run_step(settings, spark, "evaluate", NIGHTS[0], "requested") == [{"rows": 3}]
    assert [m.partition(":")[0] for m in caplog.messages] == ["catalog.database", "catalog"]
    assert all("Connection refused" in message for message in caplog.messages)
    assert Journal(settings).read_entries()[-1].state == "done"
    nightly.run_step(settings, spark, "evaluate", NIGHTS[0], "requested")
    assert spark.table("unreachable.metrics").count() > 0, "the next step registers the tables"


@pytest.mark.spark
def test_a_table_that_cannot_be_registered_does_not_affect_the_others(
    tmp_path: Path, spark: SparkSession, caplog: pytest.LogCaptureFixture
) -> None:
    names, settings = write_tables(tmp_path), load_with_catalog(tmp_path, "damaged")
    for file in (tmp_path / "ledger" / "_delta_log").glob("*.json"):
        file.write_text("{")
    create_database(settings, spark)
    with caplog.at_level(logging.WARNING, "star_ctr"):
        assert set(register_tables(settings, spark)) == names - {"ledger"}
    assert "`ledger` could not be registered" in caplog.text


def test_names_in_the_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="catalog.database"):
        load_with_catalog(tmp_path, "'a`; DROP'")
    with pytest.raises(ConfigError, match="catalog.database: this key is required"):
        load("demo", ["catalog={name: unity}"])
    assert load("demo").catalog is None


HIVE = """
import sys
from star_ctr.conf.load import load
from star_ctr.jobs.io import session
from star_ctr.jobs.io.table_catalog import create_database, register_tables
settings = load("demo", sys.argv[1:])
spark = session.start(settings, "hive")
create_database(settings, spark)
registered = register_tables(settings, spark)
assert spark.conf.get("spark.sql.catalogImplementation") == "hive"
spark.stop()
spark = session.start(settings, "hive again")  # the metastore outlives the session
rows = spark.sql("SELECT count(*) AS n FROM ads.metrics WHERE domain = 'overall'").collect()
described = {r.col_name: (r.data_type, r.comment) for r in spark.sql("DESCRIBE TABLE EXTENDED ads.steps").collect()}
create_database(settings, spark)
again = register_tables(settings, spark)
import json
print(json.dumps([registered, again, rows[0].n, described["Comment"][0], described["state"][1], described["Type"][0]]))
"""


@pytest.mark.slow
def test_tables_are_registered_in_a_hive_metastore(tmp_path: Path) -> None:
    names = write_tables(tmp_path / "warehouse")
    conf = {
        "spark.sql.catalogImplementation": "hive", "spark.sql.warehouse.dir": f"{tmp_path}/databases",
        "spark.hadoop.javax.jdo.option.ConnectionURL": f"jdbc:derby:;databaseName={tmp_path}/metastore;create=true",
        **json.loads(INTERPRETED.removeprefix("spark.conf=")),
    }  # fmt: skip
    overrides = [
        f"paths.warehouse={tmp_path}/warehouse", "catalog.database=ads", "spark.master=local[1]", "spark.driver_memory=1g",
        f"spark.conf={json.dumps(conf)}",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", HIVE, *overrides], capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "STAR_CTR_SPARK_LOG": str(tmp_path / "spark.log")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:] + (tmp_path / "spark.log").read_text()[-3000:]
    registered, again, overall, about, comment, kind = json.loads(done.stdout.splitlines()[-1])
    assert set(registered) == set(again) == names
    assert overall == 1
    assert (about, comment, kind) == (TABLES["steps"].about, TABLES["steps"].columns["state"], "EXTERNAL")
    assert (tmp_path / "metastore").is_dir()
