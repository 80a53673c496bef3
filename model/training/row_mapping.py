"""Mapping of embedding rows between two runs: a row belongs to a value, whose id may differ between the runs.

The id of an expired value may belong to another value in a later run. Then its row is not mapped: the new row, its
optimizer state and its EMA are initialized again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import torch
from torch import Tensor

from star_ctr.conf.contracts.encoded_row import FIRST_KNOWN, PADDING, UNKNOWN
from star_ctr.conf.contracts.vocabulary import Vocabulary
from star_ctr.conf.errors import UserError
from star_ctr.model.embeddings.tables import EmbeddingTables, compute_offsets


class EmbeddingRows(NamedTuple):
    """The embedding rows of an earlier run.

    Attributes:
        sizes: The number of rows of each table, including its padding row.
        widths: The width of each table.
        vocabularies: The vocabulary of each table that has one.
    """

    sizes: Mapping[str, int]
    widths: Mapping[str, int]
    vocabularies: Mapping[str, Vocabulary]


def map_rows(
    run_id: str, earlier: EmbeddingRows, vocabularies: Mapping[str, Vocabulary], tables: EmbeddingTables
) -> tuple[dict[int, Tensor], dict[str, dict[str, int]]]:
    """Map the rows of the embedding storages of an earlier run to those of new tables.

    Args:
        run_id: The earlier run, for messages.
        earlier: The embedding rows of the earlier run.
        vocabularies: The vocabularies of the new tables.
        tables: The new tables.

    Returns:
        For each embedding width, the new row of each earlier row, or -1 if its value no longer exists. For each table,
        the numbers of values that are kept, new and left out.

    Raises:
        UserError: The widths of a table differ.
    """
    offset, rows = compute_offsets(earlier.sizes, earlier.widths)
    moved = {width: torch.full((n,), -1) for width, n in rows.items()}
    counts: dict[str, dict[str, int]] = {}
    for width in moved:
        moved[width][PADDING] = PADDING
    for name, size in earlier.sizes.items():
        width = earlier.widths[name]
        if width != tables.widths[name]:
            raise UserError(
                f"{run_id}: training cannot start from this run, because the width of the embeddings of {name} is "
                f"{width} in that run and {tables.widths[name]} in this run; change `model.dim` or "
                f"`model.embeddings.{name}.dim` back"
            )
        before, now = earlier.vocabularies.get(name), vocabularies.get(name)
        ids = _map_ids(size, before, now, tables.sizes[name])
        earlier_ids = np.flatnonzero(ids >= UNKNOWN)
        moved[width][earlier_ids + offset[name]] = torch.from_numpy(ids[earlier_ids] + tables.offset[name])
        kept = int((ids >= FIRST_KNOWN).sum())
        # Ids of a vocabulary may have gaps, so a table can have more rows than values.
        values_before = len(before.ids) if before else size - FIRST_KNOWN
        values_now = len(now.ids) if now else tables.sizes[name] - FIRST_KNOWN
        counts[name] = {"kept": kept, "new": values_now - kept, "left_out": values_before - kept}
    return moved, counts


def _map_ids(size: int, earlier: Vocabulary | None, known: Vocabulary | None, new_size: int) -> npt.NDArray[np.int64]:
    """Map the ids of an earlier embedding table to those of the new one.

    Args:
        size: Size of the earlier table.
        earlier: Vocabulary of the earlier table; None if it has none (buckets). Then ids do not change.
        known: Vocabulary of the new table; None if it has none.
        new_size: Size of the new table.

    Returns:
        The new id of each earlier id; -1 if there is none.
    """
    ids = np.arange(size, dtype=np.int64)
    if earlier is None or known is None:
        ids[new_size:] = -1
        return ids
    ids[FIRST_KNOWN:] = -1
    position = pc.index_in(earlier.values, known.values).fill_null(-1).to_numpy()
    is_kept = position >= 0
    ids[earlier.ids[is_kept]] = known.ids[position[is_kept]]
    return ids
