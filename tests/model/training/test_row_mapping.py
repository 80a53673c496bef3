"""Embedding rows are mapped by value: ids with gaps, and ids that belong to another value now."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from star_ctr.conf.contracts.vocabulary import Vocabulary
from star_ctr.model.embeddings.tables import EmbeddingTables
from star_ctr.model.training.row_mapping import EmbeddingRows, map_rows


def make_vocabulary(values: dict[str, int]) -> Vocabulary:
    return Vocabulary(pa.array(list(values)), np.array(list(values.values()), dtype=np.int32))


def test_a_row_follows_its_value_and_a_freed_row_is_not_mapped() -> None:
    before = {"a": 2, "c": 4, "d": 7}  # the ids 3, 5 and 6 are free
    now = {"a": 2, "new": 4, "d": 5, "c": 9}  # c has expired and come back; its id belongs to another value
    earlier = EmbeddingRows({"item": 8, "tag": 5}, {"item": 4, "tag": 4}, {"item": make_vocabulary(before)})
    tables = EmbeddingTables({"tag": 5, "item": 10}, {"item": 4, "tag": 4})
    moved, counts = map_rows("r", earlier, {"item": make_vocabulary(now)}, tables)
    first, first_now = 0, tables.offset["item"]  # the earlier run has `item` first
    rows = {k: int(row) for k, row in enumerate(moved[4].tolist())}
    for value, i in before.items():
        assert rows[first + i] == first_now + now[value]
    assert all(rows[first + i] == -1 for i in (3, 5, 6))
    assert rows[first + 1] == first_now + 1, "the row of unknown values"
    assert tables.offset["item"] + now["new"] not in rows.values(), "the row of a new value is not loaded"
    assert counts["item"] == {"kept": 3, "new": 1, "left_out": 0}
    assert counts["tag"] == {"kept": 3, "new": 0, "left_out": 0}
