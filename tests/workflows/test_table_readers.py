"""The tables of a night in other tools, and the comments of tables and columns."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
from deltalake import DeltaTable, QueryBuilder
from pyspark.sql import SparkSession

from star_ctr.conf.contracts.catalog import TABLES
from star_ctr.jobs.io.warehouse import WarehouseTables
from tests.workflows.small_night import Night

pytestmark = pytest.mark.spark
READ = ("metrics", "scores", "ledger", "features")


def read_with_deltalake(path: str) -> pd.DataFrame:
    found = QueryBuilder().register("t", DeltaTable(path)).execute("SELECT * FROM t").read_all()
    return pd.DataFrame({name: found.column(name).to_pylist() for name in found.schema.names})


def read_with_duckdb(path: str) -> pd.DataFrame:
    """Read the files that deltalake lists, because DuckDB downloads its extension for Delta tables."""
    files = DeltaTable(path).file_uris()
    query = "SELECT * FROM read_parquet(?, hive_partitioning = true, hive_types_autocast = false, union_by_name = true)"
    times = [field.name for field in DeltaTable(path).schema().fields if field.type.type == "timestamp"]
    if times:  # DuckDB downloads its extension for time zones, too
        query = query.replace(
            "*", f"* REPLACE ({', '.join(f'make_timestamp(epoch_us({t})) AS {t}' for t in times)})", 1
        )
    cursor = duckdb.connect().execute(query, [files])
    names = [column[0] for column in cursor.description]
    return pd.DataFrame(cursor.fetchall(), columns=names)


def read_with_polars(path: str) -> pd.DataFrame:
    import polars

    return pd.DataFrame(polars.read_delta(path).to_dicts())


def to_text(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows as text, sorted, with columns in the order of their names."""

    def format_value(value: object) -> str:
        if isinstance(value, list | tuple | np.ndarray):
            return str([format_value(v) for v in value])
        if isinstance(value, dict):
            return str({name: format_value(v) for name, v in value.items()})
        if value is None or value is pd.NaT or (isinstance(value, float) and np.isnan(value)):
            return "null"
        if isinstance(value, int | float | np.number) and not isinstance(value, bool):
            return repr(float(value))
        return str(pd.Timestamp(value).tz_localize(None)) if hasattr(value, "tzinfo") else str(value)  # type: ignore[arg-type]

    text = rows[sorted(rows.columns)].astype(object).map(format_value)
    return text.sort_values(list(text.columns), ignore_index=True)


@pytest.mark.parametrize("table", READ)
@pytest.mark.parametrize("reader", [read_with_deltalake, read_with_duckdb, read_with_polars])
def test_other_tools_read_the_rows_of_spark(night: Night, table: str, reader: Callable[[str], pd.DataFrame]) -> None:
    if reader is read_with_polars and importlib.util.find_spec("polars") is None:
        pytest.skip("needs polars, which requirements.txt pins")
    store = WarehouseTables(night.settings, night.spark)
    expected = pd.DataFrame([row.asDict(recursive=True) for row in store.read(table).collect()])
    found = reader(store.warehouse.table(table))
    assert len(found) > 3
    pd.testing.assert_frame_equal(to_text(found), to_text(expected))


def read_comments(path: str) -> tuple[str | None, dict[str, str | None], list[int]]:
    """Read the comment of a table and of its columns from the Delta log, and the versions that changed the metadata."""
    about, columns, versions = None, {}, []
    for file in sorted(Path(path, "_delta_log").glob("*.json")):
        for action in map(json.loads, file.read_text().splitlines()):
            if "metaData" in action:
                about = action["metaData"].get("description")
                fields = json.loads(action["metaData"]["schemaString"])["fields"]
                columns = {f["name"]: f["metadata"].get("comment") for f in fields}
                versions.append(int(file.stem))
    return about, columns, versions


def test_every_table_and_column_of_a_night_has_a_comment(night: Night) -> None:
    store = WarehouseTables(night.settings, night.spark)
    existing = [name for name in TABLES if store.exists(name)]
    assert {"impressions", "features", "split", "scores", "metrics", "runs", "decisions", "ledger", "steps"} <= set(
        existing
    )
    for name in existing:
        about, columns, versions = read_comments(store.warehouse.table(name))
        assert about == TABLES[name].about
        assert all(columns.values()), (name, columns)
        assert versions == [0], "later writes leave the metadata unchanged"
        known = TABLES[name].columns
        assert {c: columns[c] for c in columns if c in known} == {c: known[c] for c in known if c in columns}


def test_comments_describe_log_columns_and_features(night: Night) -> None:
    store = WarehouseTables(night.settings, night.spark)
    impressions = read_comments(store.warehouse.table("impressions"))[1]
    assert impressions["slot"] == "column `slot` of the log `impressions`"
    features = read_comments(store.warehouse.table("features"))[1]
    assert features["items_price"] == "`items.price` as of the impression"
    assert features["by_sku__shown"] == "events `shown` before the impression, by item_id: sum of weights"
    assert features["clicked__item_id"] == "`item_id` of the last events (click) before the impression, the newest last"


def test_comments_cover_the_declared_columns(night: Night) -> None:
    """A column that is declared, but that no table of the night has, is misspelled, unless it is optional."""
    store = WarehouseTables(night.settings, night.spark)
    expiry = {"first_seen", "last_seen"}
    optional = {"impressions": {"label"}, "features": {"hour", "weekday"}}
    optional |= {"history_counts": expiry, "history_events": expiry}
    optional |= {"labels": {"weight"}, "scores": {"outcome_scores"}, "metrics": {"outcome_settings"}}
    optional |= {name: {"weight", "outcomes"} for name in ("split", "refit_split")}
    for name in (n for n in TABLES if store.exists(n)):
        stored = {field.name for field in DeltaTable(store.warehouse.table(name)).schema().fields}
        assert set(TABLES[name].columns) - stored == optional.get(name, set()), name


def test_spark_adds_the_comment_of_a_new_column(night: Night, spark: SparkSession, tmp_path: Path) -> None:
    settings = night.settings.model_copy(
        update={"paths": night.settings.paths.model_copy(update={"warehouse": str(tmp_path)})}
    )
    store = WarehouseTables(settings, spark)
    rows = spark.createDataFrame(
        [("a", "2026-03-01", "r", "x")], "impression_id string, ds string, run_id string, `odd.name` string"
    )
    store.replace("scores", rows, "ds = '2026-03-01'")
    store.replace("scores", rows.selectExpr("*", "1.5D AS score"), "ds = '2026-03-01'")
    about, columns, versions = read_comments(store.warehouse.table("scores"))
    assert about == TABLES["scores"].about
    assert columns == {
        "impression_id": "id of the impression", "ds": TABLES["scores"].columns["ds"], "odd.name": None,
        "run_id": TABLES["scores"].columns["run_id"],
        "score": "predicted CTR",
    }  # fmt: skip
    assert versions == [0, 2]
    assert store.read("scores").count() == 1
