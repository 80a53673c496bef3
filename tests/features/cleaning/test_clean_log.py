"""Cleaning of logs: normalized ids, declared labels, log columns, deduplication by day."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.errors import DataError
from star_ctr.conf.load import load
from star_ctr.conf.settings.features import Categorical, Numeric
from star_ctr.conf.settings.label import LabelColumn
from star_ctr.conf.settings.root import Settings
from star_ctr.features.cleaning.clean_log import clean_log
from star_ctr.features.cleaning.duplicates import DUPLICATE
from star_ctr.features.cleaning.log_columns import name_stored_column
from star_ctr.features.cleaning.text import to_number

pytestmark = pytest.mark.spark

AT = 1_772_359_951_000  # 2026-03-01 10:12:31 UTC, in milliseconds


def conf(label: dict[str, Any] | None = None, **log: Any) -> Settings:
    """Create settings for a log with the columns id, who, what, where, at, clk."""
    found = load("demo")
    log = {"path": "x", "format": "parquet", "id": "id", "user": "who", "item": "what", "domain": "where"} | log
    log.setdefault("time", {"column": "at", "unit": "ms"})
    given = type(found.logs.impressions).model_validate(log)
    logs = found.logs.model_copy(update={"impressions": given})
    return found.model_copy(
        update={"logs": logs, "label": LabelColumn.model_validate({"column": "clk"} | (label or {}))}
    )


def frame(spark: SparkSession, rows: list[dict[str, Any]], types: str) -> DataFrame:
    """Create rows, with defaults for missing columns; `types` is the Spark DDL of the given columns."""
    names = [part.split()[0].strip("`") for part in types.split(",")]
    plain = {"id": "string", "who": "string", "what": "string", "where": "string", "at": "long", "clk": "long"}
    more = [f"{name} {kind}" for name, kind in plain.items() if name not in names]
    defaults = {"who": "u", "what": "i", "where": "d", "at": AT, "clk": 0}
    full = [
        [row.get(n) for n in names] + [row.get(p, defaults.get(p, f"r{k}")) for p in plain if p not in names]
        for k, row in enumerate(rows)
    ]
    return spark.createDataFrame(full, ", ".join([types, *more]))


def good(rows: DataFrame) -> DataFrame:
    return rows.where(F.col("reason").isNull())


def test_ids_are_normalized_across_file_types(spark: SparkSession) -> None:
    """Pandas writes a column with missing values as floats; other files have integers, text or decimals."""
    ids = [7, 10_000_001, 2**53 - 1]
    files = {
        "long": frame(spark, [{"who": i, "id": f"a{i}"} for i in ids], "who long, id string"),
        "double": frame(spark, [{"who": float(i), "id": f"b{i}"} for i in ids] + [{"who": None}], "who double, id string"),
        "decimal": frame(spark, [{"who": pd.NA, "id": "x"}], "who string, id string").select(
            *[F.lit(f"{7}.00").cast("decimal(20, 2)").alias(c) if c == "who" else F.col(c) for c in ("who", "id", "what", "where", "at", "clk")]
        ),
        "text": frame(spark, [{"who": str(i), "id": f"c{i}"} for i in ids], "who string, id string"),
    }  # fmt: skip
    rows = clean_log(conf(), "impressions", files)
    found = {r.user_id for r in good(rows).select("user_id").collect()}
    assert found == {str(i) for i in ids}
    assert [r.reason for r in rows.where(F.col("reason").isNotNull()).collect()] == ["who: missing"]


def test_whole_numbers_in_csv_and_json_are_normalized_unless_declared_as_string(spark: SparkSession) -> None:
    texts = ["12", "12.0", "12.000", "1.2E1", "0012", "7E10", "1.5", "a.0", "-3.0"]
    rows = frame(spark, [{"who": t} for t in texts], "who string")
    want = ["12", "12", "12", "12", "0012", "7E10", "1.5", "a.0", "-3"]
    cleaned = clean_log(conf(format="csv"), "impressions", rows).orderBy(F.col("impression_id"))
    assert [r.user_id for r in cleaned.collect()] == want
    kept = clean_log(conf(format="csv", types={"who": "string"}), "impressions", rows).orderBy("impression_id")
    assert [r.user_id for r in kept.collect()] == texts


def test_ids_rounded_by_floats_are_quarantined(spark: SparkSession) -> None:
    """Ids above 2^53 are not exact in a float, so different users would become one."""
    large = [float(2**53), 1e18, 12.5, float("inf")]
    rows = clean_log(conf(), "impressions", frame(spark, [{"who": x} for x in large], "who double"))
    reasons = sorted(r.reason for r in rows.collect())
    lost = "who: a float this large has lost digits; write the id as an integer or as text"
    assert reasons == [lost, lost, lost, "who: an id cannot have a fraction"]
    texts = ["1.2345678901234568e+18", "9007199254740994.0", "1.23457E+14", "1.2345678901234568E19"]
    written = clean_log(conf(format="json"), "impressions", frame(spark, [{"who": t} for t in texts], "who string"))
    assert all("lost digits" in r.reason for r in written.collect())
    whole = clean_log(conf(), "impressions", frame(spark, [{"who": 2**60 + 1}, {"who": 2**60 + 2}], "who long"))
    assert {r.user_id for r in good(whole).collect()} == {str(2**60 + 1), str(2**60 + 2)}


@pytest.mark.parametrize(
    ("declared", "kind", "values", "want"),
    [
        ({"negative": [0, -1]}, "long", [1, -1, 0, 2], [1.0, 0.0, 0.0, None]),
        ({"positive": ["yes"], "negative": ["no", ""]}, "string", ["yes", "No", None, "maybe"], [1.0, 0.0, 0.0, None]),
        ({}, "boolean", [True, False, None], [1.0, 0.0, None]),
        ({}, "string", ["true", "False", "1.0", "0", "", "-1"], [1.0, 0.0, 1.0, 0.0, None, None]),
        ({}, "double", [1.0, 0.0, 0.5, float("nan")], [1.0, 0.0, None, None]),
    ],
)
def test_only_declared_label_values_are_accepted(
    spark: SparkSession, declared: dict[str, Any], kind: str, values: list[Any], want: list[float | None]
) -> None:
    rows = clean_log(conf(declared), "impressions", frame(spark, [{"clk": v} for v in values], f"clk {kind}"))
    found = rows.orderBy("impression_id").collect()
    assert [r.label for r in found] == want
    assert [r.reason for r in found] == [
        None if w is not None else "clk: label is neither `positive` nor `negative`" for w in want
    ]


def test_log_columns_with_reserved_names_are_kept(spark: SparkSession) -> None:
    """A marketplace log has columns user_id (seller), domain (site), label and hour that no role refers to."""
    own = {
        "user_id": "seller",
        "domain": "shop.example",
        "label": "new!",
        "hour": "server",
        "domain_raw": "odd",
        "TS": "x",
    }
    rows = frame(spark, [own], ", ".join(f"{name} string" for name in own))
    (found,) = clean_log(conf(), "impressions", rows).collect()
    assert (found.user_id, found.domain, found.label) == ("u", "d", 0.0)
    assert (found.user_id_raw, found.domain_raw, found.label_raw) == ("seller", "shop.example", "new!")
    assert (found.domain_raw_raw, found.hour, found.TS_raw) == ("odd", "server", "x")


@given(st.lists(st.from_regex(r"(domain|Domain|label|ts|price|_x)(_raw){0,3}", fullmatch=True), unique_by=str.lower))
def test_log_columns_get_distinct_names(names: list[str]) -> None:
    stored = [name_stored_column(name).lower() for name in names]
    assert len(set(stored)) == len(names)
    assert not {"domain", "label", "ts"} & set(stored)


def test_null_values_become_null(spark: SparkSession) -> None:
    tokens = ["\\N", "NULL", "nan", "None", " ", "00000000-0000-0000-0000-000000000000", "u1"]
    rows = frame(spark, [{"who": t, "city": t} for t in tokens], "who string, city string")
    found = clean_log(conf(format="csv"), "impressions", rows).orderBy("impression_id").collect()
    assert [r.user_id for r in found] == [None] * 6 + ["u1"]
    assert [r.city for r in found] == [None] * 6 + ["u1"]
    assert [r.reason for r in found] == ["who: missing"] * 6 + [None]
    assert "NULL" in found[1].raw
    own = clean_log(conf(format="csv", null_values=["-"]), "impressions", rows).orderBy("impression_id").collect()
    assert [r.user_id for r in own] == tokens


def test_numbers_are_parsed_with_the_decimal_separator(spark: SparkSession) -> None:
    texts = ["12.5", " 7 ", "1e3", "true", "12,5", "1.234,50", "1.234", "x", "2026-03-01", "3d", ""]
    rows = spark.createDataFrame([(k, t) for k, t in enumerate(texts)], "k long, t string")
    found = (
        rows.select("k", to_number(F.col("t")).alias("p"), to_number(F.col("t"), ",").alias("c")).orderBy("k").collect()
    )
    assert [r.p for r in found] == [12.5, 7.0, 1000.0, 1.0, None, None, 1.234, None, None, None, None]
    assert [r.c for r in found] == [None, 7.0, 1000.0, 1.0, 12.5, 1234.5, 1234.0, None, None, None, None]


def test_a_thousand_with_a_decimal_comma_is_not_one(spark: SparkSession) -> None:
    """The zeros of 1.000 must be kept until it is parsed, because it means 1000."""
    texts = ["999", "1.000", "1.001", "2.000.000", "12,0", "12,50", "12.0", "5,000"]
    rows = frame(
        spark,
        [{"id": f"{k}", "price": t, "who": t} for k, t in enumerate(texts)],
        "id string, price string, who string",
    )
    cleaned = (
        clean_log(conf(format="csv", decimal=",", types={"price": "double"}), "impressions", rows)
        .orderBy("impression_id")
        .collect()
    )
    assert [r.price for r in cleaned] == [999.0, 1000.0, 1001.0, 2e6, 12.0, 12.5, 12.0, 5.0]
    assert [r.user_id for r in cleaned] == ["999", "1.000", "1.001", "2.000.000", "12", "12,50", "12", "5"]


def test_a_day_in_a_timestamp_column_is_in_the_zone_of_the_data_set(spark: SparkSession) -> None:
    """Midnight in Berlin is the day before in UTC; a snapshot must not be seen a day early."""
    rows = frame(spark, [{"at": 1_772_359_951_000}], "at long").withColumn(
        "day", F.lit("2026-02-28 23:00:00").cast("timestamp")
    )
    for zone, day in (("Europe/Berlin", "2026-03-01"), ("UTC", "2026-02-28")):
        chosen = conf(day={"column": "day"}).model_copy(update={"zone": zone})
        assert [r.ds for r in clean_log(chosen, "impressions", rows).collect()] == [day]
        plain = rows.withColumn("day", F.lit("2026-03-02").cast("date"))
        assert [r.ds for r in clean_log(chosen, "impressions", plain).collect()] == ["2026-03-02"]


def test_a_float_does_not_fit_a_column_declared_as_long(spark: SparkSession) -> None:
    """Also where a feature reads it as an id, which is checked for lost digits."""
    chosen = conf(types={"category": "long"})
    feature = Categorical.model_validate({"name": "c", "kind": "categorical", "column": "impressions.category"})
    chosen = chosen.model_copy(update={"features": [feature]})
    rows = frame(spark, [{"category": x} for x in (3.0, 3.5, 2.0**60)], "category double")
    found = clean_log(chosen, "impressions", rows).orderBy("impression_id").collect()
    assert [r.reason and r.reason.partition(": ")[2][:10] for r in found] == [None, "not a long", "a float th"]


def test_lists_are_kept_and_structs_are_rejected_as_ids(spark: SparkSession) -> None:
    rows = frame(spark, [{"tags": ["a", "b"], "n": [1.0, 2.5]}], "tags array<string>, n array<double>")
    (found,) = clean_log(conf(), "impressions", rows).collect()
    assert (found.tags, found.n) == (["a", "b"], ["1", "2.5"])
    nested = frame(spark, [{"who": ("x",)}], "who struct<id: string>")
    with pytest.raises(DataError, match=r"`who` is a struct.* cannot be `user_id`"):
        clean_log(conf(), "impressions", nested)


DAYS = ["2026-03-01", "2026-03-02", "2026-03-03", "2026-03-04"]
LOG = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=14
)  # day, id, number of the row with that id


@settings(max_examples=4, deadline=None)
@given(LOG, st.integers(0, 2))
def test_deduplication_does_not_depend_on_the_days_read(spark: SparkSession, log: list[Any], reach: int) -> None:
    """Compare the kept rows with a loop over the days, and with those of each window that starts later."""
    midnight = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
    rows = [
        {"id": f"v{i}", "who": f"u{v}", "at": int((midnight + dt.timedelta(days=d, hours=1)).timestamp() * 1000)}
        for d, i, v in log
    ]
    frame_of = frame(spark, rows, "id string, who string, at long")
    chosen = conf(duplicate_days=reach)
    whole = [(r.ds, r.impression_id, r.user_id, r.reason) for r in clean_log(chosen, "impressions", frame_of).collect()]

    def text(row: tuple[str, str, str, str | None]) -> tuple[str, ...]:
        return tuple(str(x) for x in row)

    want: dict[tuple[int, int], int] = {}
    for d, i, _ in log:
        earlier = [v for e, j, v in log if j == i and d - reach <= e < d]
        want[d, i] = 0 if earlier else 1
    kept = {(d, i): sum(r[0] == DAYS[d] and r[1] == f"v{i}" and r[3] is None for r in whole) for d, i in want}
    assert kept == want
    for first in range(4):
        part = frame_of.where(F.col("at") >= int((midnight + dt.timedelta(days=first - reach)).timestamp() * 1000))
        again = [
            (r.ds, r.impression_id, r.user_id, r.reason)
            for r in clean_log(chosen, "impressions", part).where(F.col("ds") >= DAYS[first]).collect()
        ]
        assert sorted(again, key=text) == sorted((r for r in whole if r[0] >= DAYS[first]), key=text)


def test_duplicates_and_conflicts_are_distinguished(spark: SparkSession) -> None:
    rows = [{"id": "v", "who": "a"}, {"id": "v", "who": "a"}, {"id": "v", "who": "b"}]
    found = clean_log(conf(), "impressions", frame(spark, rows, "id string, who string")).collect()
    assert sorted(str(r.reason) for r in found) in (
        sorted(["None", DUPLICATE, "impression_id: used by two different rows"]),
        sorted(["None", "impression_id: used by two different rows", "impression_id: used by two different rows"]),
    )


def test_a_column_read_as_an_id_must_not_be_rounded_either(spark: SparkSession) -> None:
    """A file that stores campaign ids above 2^53 as floats would merge campaigns."""
    chosen = conf()
    campaign = Categorical(name="campaign", kind="categorical", column="impressions.campaign")
    chosen = chosen.model_copy(update={"features": [campaign]})
    rows = frame(spark, [{"campaign": 2.0**53, "views": 1e18}], "campaign double, views double")
    (found,) = clean_log(chosen, "impressions", rows).collect()
    assert found.reason == "campaign: a float this large has lost digits; write the id as an integer or as text"
    (found,) = clean_log(conf(), "impressions", rows).collect()
    assert found.reason is None


def test_a_decimal_comma_is_read_only_in_text(spark: SparkSession) -> None:
    """A Parquet float of 1.234 must not become 1234."""
    chosen = conf(decimal=",", types={"x": "double"})
    price = Numeric(name="price", kind="numeric", column="impressions.price")
    chosen = chosen.model_copy(update={"features": [price]})
    typed = frame(spark, [{"x": 1.234, "price": 2.125}], "x double, price double")
    text = frame(spark, [{"x": "1.234,5", "price": "2,125"}], "x string, price string")
    rows = [*clean_log(chosen, "impressions", typed).collect(), *clean_log(chosen, "impressions", text).collect()]
    assert [(r.x, r.price, r.reason) for r in rows] == [(1.234, "2.125", None), (1234.5, "2.125", None)]


def test_null_values_apply_to_every_type_and_in_lists(spark: SparkSession) -> None:
    rows = frame(spark, [{"who": -1, "tags": ["a", "-1"]}, {"who": 5, "tags": ["b"]}], "who long, tags array<string>")
    found = clean_log(conf(null_values=["-1"]), "impressions", rows).orderBy("impression_id").collect()
    assert [(r.user_id, r.tags, r.reason) for r in found] == [(None, ["a", None], "who: missing"), ("5", ["b"], None)]
    blank = clean_log(conf(), "impressions", frame(spark, [{"who": "NULL\t"}, {"who": "\u00a0"}], "who string"))
    assert {r.reason for r in blank.collect()} == {"who: missing"}


def test_one_log_column_may_have_two_roles(spark: SparkSession) -> None:
    (found,) = clean_log(
        conf(item="what", domain="what"), "impressions", frame(spark, [{"what": "a"}], "what string")
    ).collect()
    assert (found.item_id, found.domain) == ("a", "a")
