"""A reader of the rows of one version of the split that checks that no row is lost.

Petastorm does not know Delta tables, and its thread pools lose rows without an error. It therefore gets a plain list of
files, those that are live in the version, and the pool in `petastorm_pool`. The rows read from each file are compared
with its row count in the Delta log. Any difference is an error.
"""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from deltalake import DeltaTable

from star_ctr.conf.contracts.encoded_row import Layout, SplitPartition
from star_ctr.conf.errors import DataError
from star_ctr.model.data.batch_order import DataFile
from star_ctr.model.data.negative_downsampling import select_rows
from star_ctr.model.data.row_weights import scale_weights

_UNSUPPORTED = {"deletionVectors": "deletion vectors", "columnMapping": "column mapping"}
"""Delta reader features without which plain Parquet files are not the rows of the table, with their names."""


@dataclass
class Rows:
    """Encoded rows.

    Attributes:
        ints: Integers of the rows, shape (n, `Layout.int_count`).
        floats: Numbers of the rows, shape (n, `Layout.float_count`).
        label: Labels (0 or 1), shape (n,).
        domain: Domain numbers, shape (n,).
        day: Days as ISO dates, shape (n,); None if they were not read.
        weight: Weights, divided by `DataFile.mean_weight`, shape (n,); None if all rows have the same weight.
        outcomes: Labels of the K further outcomes (0 or 1; NaN if not known yet), shape (n, K); None if there are none
            or they were not read.
    """

    ints: npt.NDArray[np.int32]
    floats: npt.NDArray[np.float32]
    label: npt.NDArray[np.float32]
    domain: npt.NDArray[np.int32]
    day: npt.NDArray[np.object_] | None = None
    weight: npt.NDArray[np.float32] | None = None
    outcomes: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.label)

    @property
    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays by name, except for `day` and those that are None."""
        names = [field.name for field in fields(self) if field.name != "day"]
        return {name: array for name in names if (array := getattr(self, name)) is not None}

    @property
    def total_weight(self) -> float:
        """Sum of the weights; the number of rows if all rows have the same weight."""
        return len(self) if self.weight is None else float(self.weight.sum(dtype=np.float64))

    def number_days(self) -> npt.NDArray[np.int32]:
        """Return the days as ordinals, shape (n,); they must have been read."""
        found = pa.array(self.day, pa.string()).dictionary_encode()
        days = [dt.date.fromisoformat(day).toordinal() for day in found.dictionary.to_pylist()]
        numbers: npt.NDArray[np.int32] = np.array(days, np.int32)[found.indices.to_numpy()]
        return numbers

    def part(self, index: npt.NDArray[np.intp] | slice) -> Rows:
        """Return the rows at `index`, in its order."""
        day = None if self.day is None else self.day[index]
        return Rows(day=day, **{name: array[index] for name, array in self.columns.items()})


def concat_rows(parts: Sequence[Rows]) -> Rows:
    """Concatenate rows; the result contains only the arrays that all parts have."""
    columns = [part.columns | ({} if part.day is None else {"day": part.day}) for part in parts]
    names = [name for name in columns[0] if all(name in found for found in columns)]
    return Rows(**{name: np.concatenate([found[name] for found in columns]) for name in names})


def unpack_columns(
    ints: pa.Array | pa.ChunkedArray, floats: pa.Array | pa.ChunkedArray, layout: Layout
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Return the values of the binary columns `ints` and `floats` as matrices.

    The matrices are read-only views of the memory of the columns. Only columns of several chunks are copied.

    Args:
        ints: Binary column with the integers of n rows.
        floats: Binary column with the numbers of n rows.
        layout: Layout of the encoded rows.

    Returns:
        Arrays of shape (n, `layout.int_count`) and (n, `layout.float_count`).

    Raises:
        DataError: The size of a value differs from the layout.
    """
    return view_matrix("ints", ints, np.dtype(np.int32), layout.int_count), view_matrix(
        "floats", floats, np.dtype(np.float32), layout.float_count
    )


def view_matrix(
    name: str, column: pa.Array | pa.ChunkedArray, kind: np.dtype[Any], width: int
) -> np.ndarray[Any, np.dtype[Any]]:
    """Return the values of a binary column as a matrix.

    Args:
        name: Name of the column, for messages.
        column: Binary column of n rows.
        kind: Type of the values.
        width: Number of values per row.

    Returns:
        A read-only array of shape (n, width).

    Raises:
        DataError: The size of a value differs from `width`.
    """
    if isinstance(column, pa.ChunkedArray):  # combine_chunks copies even a single chunk
        array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    else:
        array = column
    n, size = len(array), width * kind.itemsize
    if n == 0 or width == 0:
        return np.empty((n, width), kind)
    _, ends, data = array.buffers()
    offsets = np.frombuffer(ends, dtype=np.int32)[array.offset : array.offset + n + 1]
    if array.null_count or (np.diff(offsets) != size).any():
        raise DataError(
            f"{name}: a row does not have the {size} bytes of the layout; it was encoded with a different layout"
        )
    return np.frombuffer(data, dtype=kind, count=n * width, offset=int(offsets[0])).reshape(n, width)


def list_live_files(
    table: str, version: int, partitions: Collection[SplitPartition], layout: Layout, key_column: str = "impression_id"
) -> list[DataFile]:
    """List the files of some partitions in one version of the split.

    The order depends on the contents of the files: domain, smallest and largest key, and row count. Empty files
    are skipped.

    Args:
        table: Path of the table, or a URL that both deltalake and fsspec can read.
        version: Version of the table.
        partitions: Values of the partition columns `ds` and `part`.
        layout: Layout with the domain numbers.
        key_column: Column whose smallest and largest values in a file are its sort key.

    Returns:
        The sorted files.

    Raises:
        DataError: The table uses deletion vectors or column mapping, so that its files alone are not its rows, or the
            Delta log does not contain the row count of a file.
    """
    delta = DeltaTable(table, version=version)
    features = set(delta.protocol().reader_features or ())
    for feature, description in _UNSUPPORTED.items():
        if feature in features:
            raise DataError(
                f"{table}: the table uses {description}, which the reader of the trainer does not support; "
                f"rewrite the table without {description}"
            )
    root = table if "://" in table else str(Path(table).absolute())
    files = []
    for action in pa.table(delta.get_add_actions(flatten=True)).to_pylist():
        if (action["partition.ds"], action["partition.part"]) not in partitions or action["num_records"] == 0:
            continue
        if action["num_records"] is None:
            raise DataError(
                f"{table}: the Delta log has no row count for {action['path']}; run `star-ctr split` again, with "
                "statistics of files enabled (delta.dataSkippingNumIndexedCols above 0)"
            )
        key = (str(action.get(f"min.{key_column}")), str(action.get(f"max.{key_column}")))
        files.append(
            DataFile(
                f"{root}/{action['path']}",
                int(action["partition.domain_number"]),
                action["num_records"],
                key,
                ds=action["partition.ds"],
            )
        )
    return sorted(files, key=lambda f: (f.domain, f.key, f.rows, f.url))


def read_files(files: Sequence[DataFile], layout: Layout, days: bool = False, readers: int = 1) -> Iterator[Rows]:
    """Read files of the split.

    Args:
        files: The files.
        layout: Layout of the encoded rows.
        days: Read the day of each row too.
        readers: Number of decoding threads, and of row groups that are decoded ahead.

    Yields:
        The rows of each file, in the order of `files`.

    Raises:
        DataError: A file has fewer or more rows than its `DataFile`, or rows of another domain.
    """
    if not files:
        return
    with warnings.catch_warnings():
        # petastorm 0.13 uses deprecated names of pyarrow. Users cannot change that.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"petastorm\..*")
        # It warns that `label` does not select `label_final`, too.
        warnings.filterwarnings("ignore", message="schema_fields behavior has changed", category=UserWarning)
        from star_ctr.model.data.petastorm_pool import open_reader

        more = [*(["day"] if days else []), *(["weight"] if files[0].mean_weight is not None else [])]
        more += ["outcomes"] if layout.outcomes else []
        columns = ["label", "domain_id", "ints", "floats", *more]
        reader = open_reader([file.url for file in files], columns, readers)
        try:
            chunks = iter(reader)
            for file in files:
                yield _read_file(file, chunks, layout)
            if next(chunks, None) is not None:
                raise DataError(
                    f"{files[-1].url}: the files contain more rows than the Delta log of the split; "
                    "the files or their reader are damaged"
                )
        finally:
            # Not `with reader`, because leaving it prints a line to standard output.
            reader.stop()
            reader.join()


def _read_file(file: DataFile, chunks: Iterator[pa.Table], layout: Layout) -> Rows:
    """Read the row groups of one file from `chunks`, check their number of rows and domain, and select used rows."""
    parts, read = [], 0
    stored = file.rows if file.stored_rows is None else file.stored_rows
    while read < stored:
        chunk = next(chunks, None)
        if chunk is None:
            break
        n = len(chunk)
        if not (chunk["domain_id"].to_numpy() == file.domain).all():
            raise DataError(
                f"{file.url}: the reader returned rows of another domain; the file or the previous one is damaged"
            )
        parts.append(
            Rows(
                *unpack_columns(chunk["ints"], chunk["floats"], layout),
                chunk["label"].to_numpy().astype(np.float32),
                np.full(n, file.domain, dtype=np.int32),
                chunk["day"].to_numpy() if "day" in chunk.column_names else None,
                None if file.mean_weight is None else scale_weights(chunk["weight"].to_numpy(), file.mean_weight),
                view_matrix("outcomes", chunk["outcomes"], np.dtype(np.float32), len(layout.outcomes))
                if layout.outcomes
                else None,
            )
        )
        read += n
    if read != stored:
        raise DataError(
            f"{file.url}: read {read} rows, but the Delta log has {stored}; the file or its reader is damaged"
        )
    rows = parts[0] if len(parts) == 1 else concat_rows(parts)
    if file.stored_rows is None:
        return rows
    used = rows.part(np.flatnonzero(select_rows(file, rows.label)))
    if len(used) != file.rows:
        raise DataError(
            f"{file.url}: selected {len(used)} rows, but {file.rows} when training started; the file has changed. Run "
            "`star-ctr train` again"
        )
    return used
