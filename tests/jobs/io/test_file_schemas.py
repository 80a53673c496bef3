"""Schemas of log files, and files that cannot be read."""

from __future__ import annotations

import bz2
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given
from hypothesis import strategies as st

from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.logs import AttributeLog
from star_ctr.jobs.io.file_schemas import EMPTY, FileSchema, _choose_multiline, read_schemas
from star_ctr.jobs.io.log_files import LogFile

ROWS = [{"id": k, "text": "a", "n": 1.5} for k in range(3)]


def write(path: Path, content: bytes) -> LogFile:
    path.write_bytes(content)
    return LogFile("", None, None, str(path), len(content), "", str(path), None)


def read(path: Path, content: bytes, form: str = "csv", **options: object) -> FileSchema:
    log = AttributeLog.model_validate({"path": "x", "format": form, "key": "id", **options})
    [schema] = read_schemas(LocalFileSystem(), log, [write(path, content)])
    return schema


def csv_bytes(frame: pd.DataFrame, **options: object) -> bytes:
    return str(frame.to_csv(index=False, **options)).encode()


def parquet_bytes(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def list_broken_files() -> Iterator[tuple[str, str, bytes, str]]:
    """Yield name, format, content and a part of the message."""
    rows = csv_bytes(pd.DataFrame(ROWS))
    lines = "".join(json.dumps(r) + "\n" for r in ROWS).encode()
    footer = parquet_bytes(pa.Table.from_pylist(ROWS))
    yield "cut.csv.gz", "csv", gzip.compress(rows, mtime=0)[:20], "the compressed file is truncated; copy it again"
    yield "plain.csv.gz", "csv", rows, "the file is damaged, or not compressed as its name says"
    yield "plain.jsonl.gz", "json", lines, "the file is damaged, or not compressed as its name says"
    yield "gzip.csv", "csv", gzip.compress(rows, mtime=0), "compressed with gzip, but its name does not end in .gz"
    yield "x.zip", "csv", b"PK\x03\x04", "Spark cannot read .zip files"
    yield "zip.csv", "csv", b"PK\x03\x04....", "the file is compressed with zip, which Spark cannot read"
    yield "x.csv.xz", "csv", b"", "Spark cannot read .xz files"
    yield "parquet.csv", "csv", footer, "the file is a Parquet file; set `format`"
    yield "utf16.csv", "csv", rows.decode().encode("utf-16"), "UTF-16"
    yield "utf16le.csv", "csv", rows.decode().encode("utf-16-le"), "UTF-16"
    yield "pretty.json", "json", json.dumps(ROWS, indent=1).encode(), "the file is a JSON array"
    yield "array.json", "json", json.dumps(ROWS).encode(), "needs one object per line"
    yield "object.json", "json", json.dumps(ROWS[0], indent=1).encode(), "objects that span several lines"
    yield "csv.parquet", "parquet", rows, "not a Parquet file"
    yield "cut.parquet", "parquet", footer[:-8], "not a Parquet file"
    yield "empty.parquet", "parquet", b"", "not a Parquet file"
    twins = pa.table({"id": [1], "note": ["a"], "Note": ["b"]})
    yield "twins.parquet", "parquet", parquet_bytes(twins), "`Note`, `note` have the same name"


@pytest.mark.parametrize(
    ("name", "form", "content", "message"), [pytest.param(*case, id=case[0]) for case in list_broken_files()]
)
def test_a_file_that_cannot_be_read_is_one_sentence(
    tmp_path: Path, name: str, form: str, content: bytes, message: str
) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path / name, content, form)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert len(str(caught.value).splitlines()) == 1


def test_header_of_csv(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", b"\xef\xbb\xbfid,n\r\n1,2\r\n").columns == ("id", "n")
    assert read(tmp_path / "b.csv", b",id,note,Note\n").columns == ("_c0", "id", "note2", "Note3")
    assert read(tmp_path / "c.csv", b"id||n\n1||2\n", separator="||").columns == ("id", "n")
    assert read(tmp_path / "d.csv.bz2", bz2.compress(b"id,n\n")).columns == ("id", "n")
    assert read(tmp_path / "e.csv", b'"a\nb",id\n1,2\n').columns == ("a\nb", "id")
    assert read(tmp_path / "f.csv", "编号,id\n".encode("gbk"), encoding="GBK").columns == ("编号", "id")


def test_files_without_rows(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", b"\n \n") is EMPTY
    assert read(tmp_path / "a.csv.gz", gzip.compress(b"")) is EMPTY
    assert read(tmp_path / "a.jsonl", b"\n", "json") is EMPTY
    assert read(tmp_path / "a.parquet", parquet_bytes(pa.table({"id": pa.array([], pa.int64())})), "parquet") is EMPTY


@given(
    st.lists(st.text(alphabet='a,"\n;', max_size=6), min_size=2, max_size=8),
    st.booleans(),
)
def test_line_breaks_in_quoted_values_are_detected(values: list[str], cut: bool) -> None:
    """The reader is multiline exactly if a value contains a line break, whichever other characters occur."""
    frame = pd.DataFrame({"text": values, "id": range(len(values))})
    text = frame.to_csv(index=False)
    log = AttributeLog(path="x", key="id")
    has_break = any("\n" in v for v in (values[:-1] if cut else values))
    # The head of a larger file ends somewhere in its last record.
    head = text[: text.rstrip("\n").rindex("\n") + 2] if cut and "\n" not in values[-1] else text
    assert _choose_multiline(log, head, head == text and not cut, 2) is has_break or (cut and "\n" in values[-1])


@pytest.mark.parametrize(
    "text",
    ['id,size\n1,"12 inch\n2,x\n3,"y"\n', 'id,size\n1,"a"b\n2,"c"\n', 'id,size\n1,"open\n2,x\n', "id\n'a\nb'\n"],
)
def test_a_quote_without_a_counterpart_does_not_swallow_lines(text: str) -> None:
    log = AttributeLog(path="x", key="id")
    assert not _choose_multiline(log, text, True, text.splitlines()[0].count(",") + 1)


@pytest.mark.parametrize("bad", ['1,"a"b\n', "1\n", "1,2,3\n", '1,"' + "long " * 30_000 + '"\n', ""])
@pytest.mark.parametrize("cut", [False, True])
def test_one_malformed_row_does_not_switch_line_breaks_off(bad: str, cut: bool) -> None:
    log = AttributeLog(path="x", key="id")
    text = "id,text\n" + bad + "".join(f'{k},"two\nlines"\n' for k in range(20))
    assert _choose_multiline(log, text + '99,"not' if cut else text, not cut, 2)


def test_a_carriage_return_is_a_line_break() -> None:
    log = AttributeLog(path="x", key="id")
    assert _choose_multiline(log, 'id,text\n1,"red\rshoes"\n', True, 2)
    assert not _choose_multiline(log, 'id,text\r\n1,"red"\r\n', True, 2)


def test_multiline_can_be_declared(tmp_path: Path) -> None:
    text = b'id,text\n1,"a\nb"\n'
    assert read(tmp_path / "a.csv", text).multiline
    assert not read(tmp_path / "a.csv", text, multiline=False).multiline
    assert read(tmp_path / "a.csv", b"id\n1\n", multiline=True).multiline
