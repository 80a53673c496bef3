"""Rows out of one version of the split: Petastorm reads the files, and every row is counted.

Petastorm knows nothing of Delta and its own thread pools lose rows in silence, so it is handed a plain list
of files (the live ones of one version) and a pool of ours (`petastorm_pool`); what arrives is counted against the
files' own row counts, and any difference is an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from deltalake import DeltaTable

from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.errors import DataError
from star_ctr.model.data.batch_order import DataFile

_REFUSED = {"deletionVectors": "deletion vectors", "columnMapping": "column mapping"}


@dataclass
class Rows:
    """Packed rows: ints (n x I), floats (n x N), label and domain (n each), and their days where asked for."""

    ints: npt.NDArray[np.int32]
    floats: npt.NDArray[np.float32]
    label: npt.NDArray[np.float32]
    domain: npt.NDArray[np.int32]
    day: npt.NDArray[np.object_] | None = None

    def __len__(self) -> int:
        return len(self.label)

    def part(self, index: npt.NDArray[np.intp] | slice) -> Rows:
        """The rows of `index` (without their days), in its order."""
        return Rows(self.ints[index], self.floats[index], self.label[index], self.domain[index])


def concat_rows(parts: Sequence[Rows]) -> Rows:
    """All rows of `parts` as one."""
    return Rows(
        np.concatenate([p.ints for p in parts]),
        np.concatenate([p.floats for p in parts]),
        np.concatenate([p.label for p in parts]),
        np.concatenate([p.domain for p in parts]),
        np.concatenate([p.day for p in parts]) if all(p.day is not None for p in parts) else None,
    )


def unpack_columns(
    ints: pa.Array | pa.ChunkedArray, floats: pa.Array | pa.ChunkedArray, layout: Layout
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """The matrices that packed columns hold, read-only: views of the columns' own memory.

    `DataError` where a row's size is not the layout's.
    """
    return _view_matrix("ints", ints, np.dtype(np.int32), layout.ints), _view_matrix(
        "floats", floats, np.dtype(np.float32), layout.floats
    )


def _view_matrix(
    name: str, column: pa.Array | pa.ChunkedArray, kind: np.dtype[Any], width: int
) -> np.ndarray[Any, np.dtype[Any]]:
    if isinstance(column, pa.ChunkedArray):  # combined, it would be copied even if it is one chunk
        array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    else:
        array = column
    n, size = len(array), width * kind.itemsize
    if n == 0 or width == 0:
        return np.empty((n, width), kind)
    _, ends, data = array.buffers()
    offsets = np.frombuffer(ends, dtype=np.int32)[array.offset : array.offset + n + 1]
    if array.null_count or (np.diff(offsets) != size).any():
        raise DataError(f"{name}: a row is not of the {size} bytes that the layout says; it was encoded by another one")
    return np.frombuffer(data, dtype=kind, count=n * width, offset=int(offsets[0])).reshape(n, width)


def list_live_files(
    table: str, version: int, ds: str, part: str, layout: Layout, key_column: str = "impression_id"
) -> list[DataFile]:
    """The files of one night's part at one version of the split, in an order that their contents alone decide.

    `table` is a path, or a URL that deltalake and fsspec both read. Raises `DataError` for a table whose files do not
    say all (deletion vectors, column mapping) or without row counts.
    """
    delta = DeltaTable(table, version=version)
    features = set(delta.protocol().reader_features or ())
    for feature, words in _REFUSED.items():
        if feature in features:
            raise DataError(f"{table}: uses {words}, which a reader of plain files cannot see; rewrite it without")
    root = table if "://" in table else f"file://{Path(table).absolute()}"
    files = []
    for action in pa.table(delta.get_add_actions(flatten=True)).to_pylist():
        if action["partition.ds"] != ds or action["partition.part"] != part or not action["num_records"]:
            continue
        key = (str(action.get(f"min.{key_column}")), str(action.get(f"max.{key_column}")))
        domain = layout.domain_id(action["partition.domain"])
        files.append(DataFile(f"{root}/{action['path']}", domain, action["num_records"], key))
    return sorted(files, key=lambda f: (f.domain, f.key, f.rows, f.url))


def read_files(files: Sequence[DataFile], layout: Layout, days: bool = False, readers: int = 1) -> Iterator[Rows]:
    """The rows of each file (with their `days` where asked for), a file at a time and in their order.

    So many `readers` decode, as many row groups ahead, in threads of their own.

    Raises `DataError` if a row is missing or one too many.
    """
    if not files:
        return
    with warnings.catch_warnings():
        # petastorm 0.13 speaks to pyarrow's old names; nothing a user could do about it
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"petastorm\..*")
        from star_ctr.model.data.petastorm_pool import open_reader

        reader = open_reader(
            [file.url for file in files], ["label", "domain_id", "ints", "floats", *(["day"] if days else [])], readers
        )
        try:
            chunks = iter(reader)
            for file in files:
                yield _read_file(file, chunks, layout)
            if next(chunks, None) is not None:
                raise DataError("the stream read more rows than its files hold by the table's log")
        finally:
            # Not `with reader`: it prints a line to standard output when left.
            reader.stop()
            reader.join()


def _read_file(file: DataFile, chunks: Iterator[pa.Table], layout: Layout) -> Rows:
    parts, read = [], 0
    while read < file.rows:
        chunk = next(chunks, None)
        if chunk is None:
            break
        n = len(chunk)
        if not (chunk["domain_id"].to_numpy() == file.domain).all():
            raise DataError(f"{file.url}: rows of another file came in its place")
        parts.append(
            Rows(
                *unpack_columns(chunk["ints"], chunk["floats"], layout),
                chunk["label"].to_numpy().astype(np.float32),
                np.full(n, file.domain, dtype=np.int32),
                chunk["day"].to_numpy() if "day" in chunk.column_names else None,
            )
        )
        read += n
    if read != file.rows:
        raise DataError(
            f"{file.url}: {read} rows came, the table's log says {file.rows}; the file or its reader is broken"
        )
    return parts[0] if len(parts) == 1 else concat_rows(parts)
