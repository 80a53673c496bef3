"""A night whose impressions come from tables of three catalogs, from Avro files by hour, and from lists of items.

All of it runs in one session of another process, because the session of the tests has no Hive metastore.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import roc_auc_score

import star_ctr
from star_ctr.jobs.io.completeness import find_incomplete_sources
from tests.conftest import INTERPRETED, ROOT
from tests.jobs.messy_logs import DAYS, DS, settings, views

pytestmark = [pytest.mark.spark, pytest.mark.slow]
ICEBERG = "org.apache.iceberg:iceberg-spark-runtime-4.0_2.13:1.10.0"
SOURCES = ("hive", "iceberg", "delta", "avro", "lists")

NIGHT = """
import sys
import pandas as pd
from star_ctr.conf.load import load
from star_ctr.jobs.io import session
from star_ctr.workflows import nightly
settings, folder, ds = load(sys.argv[1]), *sys.argv[2:4]
spark = session.start(settings, "sources")
rows = {name: spark.createDataFrame(pd.read_pickle(f"{folder}/{name}.pickle")) for name in sys.argv[4:]}
for database in ("ads", "lake.ads"):
    spark.sql(f"CREATE DATABASE {database}")

rows["hive"].createOrReplaceTempView("hive")
spark.sql("CREATE TABLE ads.web STORED AS PARQUET AS SELECT * FROM hive")
assert spark.conf.get("spark.sql.catalogImplementation") == "hive"

wrong = rows["iceberg"].selectExpr("concat('x', view) AS view", *(c for c in rows["iceberg"].columns if c != "view"))
rows["iceberg"].writeTo("lake.ads.app").using("iceberg").create()
(first,) = [r.snapshot_id for r in spark.sql("SELECT snapshot_id FROM lake.ads.app.refs WHERE name = 'main'").collect()]
wrong.writeTo("lake.ads.app").append()
spark.sql(f"CALL lake.system.rollback_to_snapshot('ads.app', {first})")
spark.sql("ALTER TABLE lake.ads.app CREATE BRANCH audit")
wrong.writeTo("lake.ads.app.branch_audit").append()

wrong.write.format("delta").saveAsTable("ads.tv")
rows["delta"].write.format("delta").mode("overwrite").saveAsTable("ads.tv")

for (day, hour), part in rows["avro"].toPandas().groupby(["day", "hour"]):
    spark.createDataFrame(part).coalesce(1).write.format("avro").save(
        f"{folder}/logs/radio/dt={day.replace('-', '')}/{hour}"
    )
nightly.run(settings, spark, ds)
"""


def make_rows() -> dict[str, pd.DataFrame]:
    """Split impressions into sources. Each has a page and a device instead of a domain, and Iceberg also has bots."""
    rows = views(200)
    rows["page"] = rows.pop("surface")
    rows["device"] = np.where(rows["visitor"].str[1:].astype(int) % 2 == 0, "phone", "web")
    rows["bot"] = False
    parts = {name: rows.iloc[k :: len(SOURCES)].copy() for k, name in enumerate(SOURCES)}
    bots = parts["iceberg"].head(9).assign(bot=True)
    parts["iceberg"] = pd.concat([parts["iceberg"], bots.assign(view="bot" + bots["view"])])
    parts["avro"]["hour"] = parts["avro"]["at"].str[11:13]
    return parts


def make_requests(rows: pd.DataFrame) -> pd.DataFrame:
    """Turn impressions into rows that list the items of two impressions; some items are clicked."""
    requests = []
    for day, part in rows.groupby("day"):
        for k in range(0, len(part) - 1, 2):
            pair, first = part.iloc[k : k + 2], part.iloc[k]
            # Twins of an item are one item: only its first position counts as clicked.
            clicked = pair["sku"][pair["clk"] == 1]
            common = first[["view", "visitor", "page", "device", "at", "bot"]].to_dict()
            requests.append(
                {**common, "day": day, "shown": list(pair["sku"]), "slots": list(pair["slot"]), "picked": list(clicked)}
            )
    return pd.DataFrame(requests)


def expect(parts: dict[str, pd.DataFrame]) -> set[tuple[Any, ...]]:
    """Return id, user, item, domain, label, day and source of each impression."""
    found: set[tuple[Any, ...]] = set()
    for name, part in parts.items():
        for row in part[~part["bot"]].to_dict("records"):
            domain, items = f"{row['page']}/{row['device']}", row.get("shown", [row.get("sku")])
            for k, item in enumerate(items):
                is_first = items.index(item) == k
                label = float(item in row["picked"] and is_first) if "picked" in row else float(row["clk"])
                view = f"{row['view']}#{k + 1}" if "shown" in row else row["view"]
                found.add((view, row["visitor"], item, domain, label, row["day"], name))
    return found


def test_a_night_of_many_sources(tmp_path: Path) -> None:
    parts = make_rows()
    parts["lists"] = make_requests(parts["lists"])
    for name in SOURCES[:-1]:
        parts[name].rename(columns={"visitor": "cookie"} if name == "hive" else {}).to_pickle(
            tmp_path / f"{name}.pickle"
        )
    for day, part in parts["lists"].groupby("day"):
        (tmp_path / "logs/lists").mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(row) + "\n" for row in part.drop(columns="day").to_dict("records")]
        (tmp_path / f"logs/lists/{day}.jsonl").write_text("".join(lines))
    conf = yaml.safe_load((settings(tmp_path), (tmp_path / "messy.yaml").read_text())[1])
    log = conf["logs"]["impressions"]
    del log["path"]
    domain = {"surface": "concat(page, '/', device)"}
    log |= {
        "day": {"column": "day"},
        "columns": domain,
        "where": "NOT cast(bot AS boolean)",
        "source_column": "origin",
        "sources": {
            "hive": {"table": "ads.web", "columns": {**domain, "visitor": "cookie"}},
            "iceberg": {"table": "lake.ads.app"},
            "delta": {"table": "ads.tv"},
            "avro": {
                "path": "radio/dt={yyyymmdd}/{hh}/*.avro",
                "format": "avro",
                "complete": {"hours": 12, "min_rows": 30},
            },
            "lists": {
                "path": "lists/{ds}.jsonl",
                "format": "json",
                "columns": {**domain, "day": "substr(at, 1, 10)", "clk": "picked", "sku": "shown", "slot": "slots"},
                "explode": {"items": "sku", "clicked": "clk", "parallel": ["slot"]},
            },
        },
    }
    delta = "io.delta.sql.DeltaSparkSessionExtension"
    conf |= {
        "name": "many",
        "spark": {
            "shuffle_partitions": 1,
            "master": "local[2]",
            "conf": {
                **yaml.safe_load(INTERPRETED.removeprefix("spark.conf=")),
                "spark.jars.packages": ICEBERG,
                "spark.sql.extensions": f"{delta},org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
                "spark.sql.catalogImplementation": "hive",
                "spark.sql.warehouse.dir": f"{tmp_path}/databases",
                "spark.hadoop.javax.jdo.option.ConnectionURL": f"jdbc:derby:;databaseName={tmp_path}/metastore;create=true",
                "spark.sql.catalog.lake": "org.apache.iceberg.spark.SparkCatalog",
                "spark.sql.catalog.lake.type": "hadoop",
                "spark.sql.catalog.lake.warehouse": f"{tmp_path}/lake",
            },
        },
    }
    (tmp_path / "many.yaml").write_text(yaml.safe_dump(conf, sort_keys=False))
    done = subprocess.run(
        [sys.executable, "-c", NIGHT, "many.yaml", tmp_path, DS, *SOURCES[:-1]], cwd=tmp_path, capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONPATH": str(ROOT), "STAR_CTR_SPARK_LOG": str(tmp_path / "spark.log")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:] + (tmp_path / "spark.log").read_text()[-3000:]

    project = star_ctr.open(str(tmp_path / "many.yaml"))
    rows = project.table("impressions").to_pandas()
    columns = ["impression_id", "user_id", "item_id", "domain", "label", "ds", "origin"]
    assert {*rows[columns].itertuples(index=False, name=None)} == expect(parts)
    assert len(rows) == len(expect(parts))
    ledger = project.table("ledger").filter("step = 'ingest' AND reason = 'left out by `where`'").to_pandas()
    assert (ledger["rows_in"] - ledger["rows_out"]).sum() == 9
    scores = project.table("scores").to_pandas()
    assert set(scores["impression_id"]) == set(rows["impression_id"][rows["ds"] == DS])
    auc = project.metrics(DS).set_index("domain")["auc"]["overall"]
    assert auc == pytest.approx(roc_auc_score(scores["label"], scores["score"]), abs=1e-9)
    assert [*find_incomplete_sources(project.settings, [DS, DAYS[0]])] == [None, None]
    for file in (tmp_path / f"logs/radio/dt={DS.replace('-', '')}").glob("0*/*.avro"):
        file.unlink()
    missing, before = find_incomplete_sources(project.settings, [DS, DAYS[0]])
    assert missing is not None
    assert missing.log == "impressions.avro"
    assert before is None
