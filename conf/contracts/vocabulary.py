"""The values behind the ids of encoded rows: what goes with a layout, in the files of the table `vocabularies`."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.dataset as pads
from deltalake import DeltaTable

from star_ctr.conf.contracts.encoded_row import BEHAVIOUR, FIRST_KNOWN


def list_vocabulary_files(table: str, version: int, ds: str) -> list[str]:
    """The files of one night's vocabularies at one version."""
    return list(DeltaTable(table, version=version).file_uris(file_pruning_predicate=f"ds = '{ds}'"))


def read_vocabularies(files: Sequence[str], history: Sequence[str]) -> dict[str, pa.Array]:
    """Each embedding table's known values in the order of their ids; the kinds of `history` are one, too."""
    table = pads.dataset(list(files), format="parquet").to_table(columns=["embedding", "value", "id"])
    table = table.sort_by([("embedding", "ascending"), ("id", "ascending")])
    vocabularies = {BEHAVIOUR: pa.array(history, type=pa.string())}
    for name in table["embedding"].unique().to_pylist():
        of_table = table.filter(pads.field("embedding") == name)
        ids = of_table["id"].to_numpy()
        assert (ids == range(FIRST_KNOWN, FIRST_KNOWN + len(ids))).all(), f"vocabulary {name} has gaps"
        vocabularies[name] = of_table["value"].combine_chunks()
    return vocabularies
