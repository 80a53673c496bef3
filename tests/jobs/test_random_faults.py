"""Random faults in small logs: each ends in the right rows, in counted quarantined rows, or in one clear sentence.

With STAR_CTR_LONG=1, 500 faults are tried; otherwise a few of them.
"""

from __future__ import annotations

import gzip
import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from star_ctr.features.cleaning.clean_log import clean_log
from star_ctr.jobs.io import log_reader
from star_ctr.jobs.io.external_errors import format_error
from tests.conftest import LONG
from tests.jobs import messy_logs

pytestmark = [pytest.mark.spark, pytest.mark.slow]
EXAMPLES = 500 if LONG else 40
ROWS_PER_DAY = 12
COLUMNS = {"visitor": "user_id", "sku": "item_id", "surface": "domain", "slot": "slot", "at": "ts", "clk": "label"}
VALUES: list[Any] = [
    None, "", " ", "NULL", "NaN", "a,b", 'say "x"', "two\nlines", "tab\tx", "\\", "'", "²", "\u0000", "日本", "x" * 300, "-1", "1e400",
    "1.23E+18", "0012", "12.0", "true", "2036-01-01T00:00:00Z", "10:12", "other", "overall", "[1, 2]", '{"a": 1}', "a/b=c %20", 7, 2.5, True,
]  # fmt: skip
NAMES = [
    "View",
    "VISITOR",
    "ts",
    "ds",
    "domain",
    "label",
    "Daily Time (s)",
    "a.b",
    "",
    "t",
    "reason",
    "raw",
    "`x`",
    "_row",
    "order",
]
outcomes: Counter[str] = Counter()


class Fault(NamedTuple):
    """Files with a fault.

    Attributes:
        files: The bytes of the file of each day.
        touched: The views whose rows the fault may change or destroy; None for all.
        name: What was done, for the tally.
    """

    files: dict[str, bytes]
    touched: set[str] | None
    name: str


def dump(rows: pd.DataFrame, form: str, **options: Any) -> bytes:
    if form == "csv":
        return str(rows.to_csv(index=False, **options)).encode()
    if form == "json":
        return "".join(json.dumps(row) + "\n" for row in rows.to_dict("records")).encode()
    buffer = io.BytesIO()
    rows.to_parquet(buffer, index=False)
    return buffer.getvalue()


def split_days(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {str(day): part.drop(columns="day").reset_index(drop=True) for day, part in rows.groupby("day")}


def dump_days(rows: pd.DataFrame, form: str) -> dict[str, bytes]:
    return {day: dump(part, form) for day, part in split_days(rows).items()}


def change_values(draw: st.DataObject, rows: pd.DataFrame, form: str) -> Fault:
    """Replace some values by others of any kind."""
    column = draw.draw(st.sampled_from(["view", *COLUMNS]))
    value = draw.draw(st.sampled_from(VALUES))
    which = draw.draw(st.sets(st.integers(0, len(rows) - 1), min_size=1, max_size=6))
    changed = rows.astype({column: object})
    touched = set(rows["view"].iloc[list(which)])
    for k in which:
        changed.loc[k, column] = value
    if form == "parquet":
        changed[column] = changed[column].map(lambda v: v if v is None else str(v))
    return Fault(dump_days(changed, form), touched, f"value in {column}")


def change_bytes(draw: st.DataObject, rows: pd.DataFrame, form: str) -> Fault:
    """Overwrite, insert or delete bytes of a file."""
    files = dump_days(rows, form)
    day = draw.draw(st.sampled_from(sorted(files)))
    data = files[day]
    position = draw.draw(st.integers(0, len(data) - 1))
    new = draw.draw(st.binary(max_size=4))
    removed = draw.draw(st.integers(0, 4))
    files[day] = data[:position] + new + data[position + removed :]
    return Fault(files, set(rows.loc[rows["day"] == day, "view"]), "bytes")


def cut(draw: st.DataObject, rows: pd.DataFrame, form: str) -> Fault:
    """Cut a file, plain or compressed."""
    files = dump_days(rows, form)
    day = draw.draw(st.sampled_from(sorted(files)))
    files[day] = files[day][: draw.draw(st.integers(0, len(files[day])))]
    return Fault(files, set(rows.loc[rows["day"] == day, "view"]), "cut")


def rename_column(draw: st.DataObject, rows: pd.DataFrame, form: str) -> Fault:
    """Rename a column of one day or of all days, or add one with an odd name."""
    old = draw.draw(st.sampled_from([None, "view", *COLUMNS]))
    new = draw.draw(st.sampled_from(NAMES))
    days = draw.draw(st.sets(st.sampled_from(messy_logs.DAYS), min_size=1))
    files = {}
    for day, part in split_days(rows).items():
        changed = (
            part if day not in days else part.assign(**{new: "x"}) if old is None else part.rename(columns={old: new})
        )
        files[day] = dump(changed, form)
    # A row of another day may keep its value only if the column still exists in the log.
    return Fault(files, None if old else set(), f"rename {old}" if old else f"add {new!r}")


def change_types(draw: st.DataObject, rows: pd.DataFrame, form: str) -> Fault:
    """Write a column with another type on one day."""
    column = draw.draw(st.sampled_from(["slot", "clk"]))
    kind = draw.draw(st.sampled_from(["float64", "str", "Int64", "bool"]))
    day = draw.draw(st.sampled_from(messy_logs.DAYS))
    parts = split_days(rows)
    parts[day] = parts[day].astype({column: kind})
    touched = set(rows.loc[rows["day"] == day, "view"]) if kind == "bool" and column == "slot" else set()
    return Fault({d: dump(p, form) for d, p in parts.items()}, touched, f"type {kind}")


def reorder(draw: st.DataObject, rows: pd.DataFrame, form: str) -> Fault:
    """Shuffle rows and columns, and repeat rows."""
    shuffled = rows.sample(frac=1, random_state=draw.draw(st.integers(0, 99)))
    repeated = pd.concat([shuffled, shuffled.iloc[: draw.draw(st.integers(0, 9))]])
    columns = draw.draw(st.permutations([c for c in rows.columns if c != "day"]))
    files = {d: dump(p[list(columns)], form) for d, p in split_days(repeated).items()}
    return Fault(files, set(), "order")


def encode(draw: st.DataObject, rows: pd.DataFrame, form: str) -> Fault:
    """Write text files in another encoding, with other line ends, or with another separator."""
    how = draw.draw(st.sampled_from(["utf-16", "utf-8-sig", "crlf", "semicolon", "pretty", "empty", "zip"]))
    files = dump_days(rows, "csv" if form == "parquet" else form)
    day = messy_logs.DS
    text = files[day].decode()
    changed = {
        "utf-16": text.encode("utf-16"), "utf-8-sig": text.encode("utf-8-sig"), "crlf": text.replace("\n", "\r\n").encode(),
        "semicolon": text.replace(",", ";").encode(), "pretty": json.dumps([{"view": "x"}], indent=1).encode(),
        "empty": b"", "zip": b"PK\x03\x04" + text.encode(),
    }  # fmt: skip
    files[day] = changed[how]
    is_same = how in ("utf-8-sig", "crlf") and form != "parquet"
    return Fault(files, set() if is_same else None, how)


FAULTS: list[Callable[[st.DataObject, pd.DataFrame, str], Fault]] = [
    change_values, change_bytes, cut, rename_column, change_types, reorder, encode,
]  # fmt: skip


def read_all(folder: Path, form: str, suffix: str, spark: SparkSession) -> tuple[list[Any], int]:
    """Read and clean the logs; return the cleaned rows and the number of raw rows."""
    log = {
        "path": f"views/{{ds}}.{suffix}",
        "format": form,
        "time": {"column": "at", "unit": "timestamp", "latest": "2026-12-31"},
    }
    conf = messy_logs.settings(folder, log)
    raw = log_reader.read(conf, spark, "impressions", None)
    if raw is None:
        return [], 0
    return clean_log(conf, "impressions", raw).collect(), sum(group.rows.count() for group in raw.values())


def check_message(message: str) -> None:
    assert "Traceback" not in message
    assert "\tat " not in message
    assert len(message) < 1500


def describe_row(row: Any) -> tuple[Any, ...]:
    return (row.user_id, row.item_id, row.domain, row.slot, row.ts.isoformat(), row.label, row.ds)


@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)  # fmt: skip
@given(data=st.data(), form=st.sampled_from(["csv", "json", "parquet"]), zipped=st.booleans())
def check_fault(spark: SparkSession, data: st.DataObject, form: str, zipped: bool) -> None:
    rows = messy_logs.views(ROWS_PER_DAY)
    fault = data.draw(st.sampled_from(FAULTS))(data, rows, form)
    suffix = {"csv": "csv", "json": "jsonl", "parquet": "parquet"}[form] + (
        ".gz" if zipped and form != "parquet" else ""
    )
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "logs" / "views"
        target.mkdir(parents=True)
        for day, content in fault.files.items():
            (target / f"{day}.{suffix}").write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
        try:
            found, count = read_all(Path(folder), form, suffix, spark)
        except Exception as error:
            if (message := format_error(error)) is None:
                raise
            check_message(message)
            outcomes["one sentence"] += 1
            return
    assert len(found) == count
    good = {row.impression_id: row for row in found if row.reason is None}
    named = {row.impression_id for row in found}
    expected = {
        r.view: (r.visitor, r.sku, r.surface, str(r.slot), r.at.replace("Z", "").replace("T", "T"), float(r.clk), r.day)
        for r in rows.itertuples()
    }
    for view, values in expected.items():
        if fault.touched is not None and view not in fault.touched:
            assert view in named, f"{fault.name}: {view} is lost"
            if view in good:
                assert describe_row(good[view]) == values, fault.name
    outcomes["quarantined rows" if len(good) < len(expected) else "right rows"] += 1


def test_random_faults(spark: SparkSession) -> None:
    outcomes.clear()
    check_fault(spark)
    print(f"\n{sum(outcomes.values())} faults: {dict(outcomes)}")
    assert len(outcomes) == 3
