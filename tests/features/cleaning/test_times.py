"""Compares parsed times in the formats of real logs with Python's `datetime`."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import LongType, StringType

from star_ctr.conf.settings.logs import TimeColumn
from star_ctr.features.cleaning.times import OUTSIDE_BOUNDS, check_time, parse_time

BERLIN = ZoneInfo("Europe/Berlin")
UTC = dt.UTC


def at(hour: int, zone: dt.tzinfo, minute: int = 12, second: int = 31) -> dt.datetime:
    return dt.datetime(2026, 3, 1, hour, minute, second, tzinfo=zone)


FORMS = {
    "2026-03-01 10:12:31": at(10, BERLIN),
    "2026-03-01T10:12:31.5": at(10, BERLIN).replace(microsecond=500_000),
    "2026-03-01 10:12:31,250": at(10, BERLIN).replace(microsecond=250_000),
    "2026-03-01 10:12": at(10, BERLIN, second=0),
    "2026-03-01": at(0, BERLIN, 0, 0),
    " 2026-3-1 9:05:07 ": dt.datetime(2026, 3, 1, 9, 5, 7, tzinfo=BERLIN),
    "2026-03-01T10:12:31Z": at(10, UTC),
    "2026-03-01 10:12:31 UTC": at(10, UTC),
    "2026-03-01 10:12:31 GMT": at(10, UTC),
    "2026-03-01 10:12:31+00": at(10, UTC),
    "2026-03-01 10:12:31+0": at(10, UTC),
    "2026-03-01 10:12:31+01": at(9, UTC),
    "2026-03-01 10:12:31-05": at(15, UTC),
    "2026-03-01 10:12:31+0530": at(4, UTC, 42),
    "2026-03-01 10:12:31 +05:30": at(4, UTC, 42),
    "2026-03-01 10:12:31 UTC+1": at(9, UTC),
    "2026-03-01 10:12:31 Europe/Berlin": at(9, UTC),
    "2026-03-01 10:12:31 America/New_York": at(15, UTC),
    "2022-05-05": dt.datetime(2022, 5, 5, tzinfo=BERLIN),  # -05 is not a zone
    "2022-05-05 10:12:31": dt.datetime(2022, 5, 5, 10, 12, 31, tzinfo=BERLIN),
    "10:12:31": None,
    "T10:12:31": None,
    "2026": None,
    "2026-03-01 10:12:31 Middle/Earth": None,
    "2026-03-01 10:12:31 CST": None,  # Chicago, or China
    "2026-13-01 10:12:31": None,
    "yesterday": None,
    "": None,
}


@pytest.mark.spark
def test_text_is_parsed_in_its_own_zone_or_the_declared_one(spark: SparkSession) -> None:
    column = TimeColumn(column="at", unit="timestamp", zone="Europe/Berlin")
    rows = spark.createDataFrame([(k, text) for k, text in enumerate(FORMS)], "k long, at string")
    parsed = parse_time(column, F.col("at"), F.col("at"), StringType(), "logs.impressions.time")
    found = rows.select("k", F.unix_micros(parsed).alias("t")).orderBy("k").collect()
    want = [None if w is None else round(w.timestamp() * 1_000_000) for w in FORMS.values()]
    assert dict(zip(FORMS, (r.t for r in found), strict=True)) == dict(zip(FORMS, want, strict=True))


@pytest.mark.spark
def test_a_declared_pattern_is_used_for_other_text(spark: SparkSession) -> None:
    column = TimeColumn(column="at", unit="timestamp", format="yyMMddHH")
    rows = spark.createDataFrame([("14102100", 14102100), ("09010203", 9010203), ("x", None)], "t string, n long")
    found = rows.select(
        F.unix_seconds(parse_time(column, F.col("t"), F.col("t"), StringType(), "time")).alias("t"),
        F.unix_seconds(parse_time(column, F.col("n"), F.col("n").cast("string"), LongType(), "time")).alias("n"),
    ).collect()
    want = [dt.datetime(2014, 10, 21, tzinfo=UTC).timestamp(), dt.datetime(2009, 1, 2, 3, tzinfo=UTC).timestamp(), None]
    assert [r.t for r in found] == [r.n for r in found] == want
    zoned = TimeColumn(column="at", unit="timestamp", format="dd/MM/yyyy HH:mm XXX", zone="Europe/Berlin")
    text = spark.createDataFrame([("01/03/2026 10:00 +05:00",)], "t string")
    (row,) = text.select(
        F.unix_seconds(parse_time(zoned, F.col("t"), F.col("t"), StringType(), "time")).alias("t")
    ).collect()
    assert row.t == dt.datetime(2026, 3, 1, 5, tzinfo=UTC).timestamp()


@pytest.mark.spark
def test_times_outside_the_bounds_are_quarantined(spark: SparkSession) -> None:
    tomorrow = dt.datetime.now(UTC) + dt.timedelta(days=3)
    times = [
        "1969-12-31 12:00:00",
        "1970-01-01 00:00:10",
        "2026-03-01 00:00:00",
        "2036-01-01 00:00:00",
        str(tomorrow)[:19],
    ]
    rows = spark.createDataFrame([(k, t) for k, t in enumerate(times)], "k long, t string")
    ts = F.col("t").cast("timestamp")
    reason = rows.select("k", check_time(TimeColumn(column="at"), ts, "UTC").alias("r")).orderBy("k").collect()
    outside = f"at: {OUTSIDE_BOUNDS}"
    assert [r.r for r in reason] == [outside, outside, None, outside, outside]
    wide = TimeColumn.model_validate({"column": "at", "earliest": "1960-01-01", "latest": "2036-01-01"})
    assert [r.r for r in rows.select("k", check_time(wide, ts, "UTC").alias("r")).orderBy("k").collect()] == [None] * 5


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"zone": "Europe/Berln"}, "Europe/Berlin"),
        ({"unit": "timestamp", "format": "%Y%m%d"}, "write yyyy-MM-dd"),
        ({"unit": "timestamp", "format": "YYYY-MM-dd"}, "`Y` cannot be read"),
        ({"unit": "ms", "format": "yyyy"}, "set `unit` to timestamp"),
        ({"earliest": "2030-01-01", "latest": "2020-01-01"}, "is before `earliest`"),
    ],
)
def test_an_invalid_time_declaration_is_rejected(declared: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TimeColumn.model_validate({"column": "at"} | declared)
