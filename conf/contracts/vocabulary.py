"""Read the values behind the ids of encoded rows, from the files of the table `vocabularies`."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from star_ctr.conf.contracts.encoded_row import BEHAVIOUR_TABLE, FIRST_KNOWN
from star_ctr.conf.files import open_folder


def list_vocabulary_files(table: str, version: int, ds: str) -> list[str]:
    """Return the paths or URLs of the files that hold the vocabularies of a night.

    Args:
        table: The path of the Delta table.
        version: Its version.
        ds: The night.
    """
    uris = DeltaTable(table, version=version).file_uris(file_pruning_predicate=f"ds = '{ds}'")
    # Paths of local files are encoded like URLs.
    return list(uris) if "://" in table else [unquote(uri.removeprefix("file://")) for uri in uris]


def read_vocabularies(files: Sequence[str], history: Sequence[str]) -> dict[str, pa.Array]:
    """Read the known values of each embedding table.

    Args:
        files: Parquet files with the columns `embedding`, `value` and `id`.
        history: The kinds of `history` in their declared order. They are the vocabulary of the table `behaviour`.

    Returns:
        For each embedding table, its values in the order of their ids. The first value has the id `FIRST_KNOWN`.
    """
    table = pa.concat_tables(_read_columns(file) for file in files)
    table = table.sort_by([("embedding", "ascending"), ("id", "ascending")])
    vocabularies = {BEHAVIOUR_TABLE: pa.array(history, type=pa.string())}
    for name in table["embedding"].unique().to_pylist():
        rows = table.filter(pc.field("embedding") == name)
        ids = rows["id"].to_numpy()
        assert (ids == range(FIRST_KNOWN, FIRST_KNOWN + len(ids))).all(), f"the ids of vocabulary {name} have gaps"
        vocabularies[name] = rows["value"].combine_chunks()
    return vocabularies


def _read_columns(file: str) -> pa.Table:
    with open_folder(file).open("rb") as stream:
        return pq.ParquetFile(stream).read(columns=["embedding", "value", "id"])
