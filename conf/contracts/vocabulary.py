"""Read the values behind the ids of encoded rows, from the files of the table `vocabularies`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from star_ctr.conf.contracts.encoded_row import BEHAVIOUR_TABLE, FIRST_KNOWN
from star_ctr.conf.files import open_folder


class Vocabulary(NamedTuple):
    """The known values of an embedding table.

    Attributes:
        values: The values, text of length n, in the order of their ids.
        ids: The id of each value, of shape (n,).
    """

    values: pa.Array
    ids: npt.NDArray[np.int32]


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


def read_vocabularies(files: Sequence[str]) -> dict[str, Vocabulary]:
    """Read the known values of each embedding table.

    Args:
        files: Parquet files with the columns `embedding`, `value` and `id`.

    Returns:
        The vocabularies by embedding table.
    """
    if not files:
        return {}
    table = pa.concat_tables(_read_columns(file) for file in files)
    table = table.sort_by([("embedding", "ascending"), ("id", "ascending")])
    vocabularies = {}
    for name in table["embedding"].unique().to_pylist():
        rows = table.filter(pc.field("embedding") == name)
        ids = rows["id"].to_numpy()
        # Expired values leave gaps in the ids.
        assert ids[0] >= FIRST_KNOWN, f"an id of vocabulary {name} is reserved"
        assert (ids[1:] > ids[:-1]).all(), f"two values of vocabulary {name} have the same id"
        vocabularies[name] = Vocabulary(rows["value"].combine_chunks(), ids.astype(np.int32))
    return vocabularies


def make_behaviour_vocabulary(history: Sequence[str]) -> dict[str, Vocabulary]:
    """Return the vocabulary of the table `behaviour`, by its name: the kinds of `history` in their declared order."""
    ids = np.arange(FIRST_KNOWN, FIRST_KNOWN + len(history), dtype=np.int32)
    return {BEHAVIOUR_TABLE: Vocabulary(pa.array(history, type=pa.string()), ids)}


def _read_columns(file: str) -> pa.Table:
    with open_folder(file).open("rb") as stream:
        return pq.ParquetFile(stream).read(columns=["embedding", "value", "id"])
