"""Encoded rows compared with values computed by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from star_ctr.conf.contracts.encoded_row import BucketField, IdField, Layout, NumericField, NumericSource, SequenceField
from star_ctr.features.encoding.id_encoder import encode_gaps
from star_ctr.features.encoding.number_encoder import encode_buckets
from star_ctr.features.encoding.row_encoder import RowEncoder
from star_ctr.features.encoding.value_index import ValueIndex, index_values

LAYOUT = Layout(
    ds="2026-01-01",
    domains=["a"],
    embeddings={"item": 4, "tag": 4, "price__bucket": 5, "gap": 34},
    categorical=[IdField(name="item", column="item_id", embedding="item")],
    buckets=[BucketField(name="price__bucket", source=NumericSource(column="price"), bounds=[1.0, 2.0])],
    numeric=[
        NumericField(
            name="rate",
            source=NumericSource(column="clicks", denominator="shown", prior=10, base=0.5),
            mean=0.5,
            std=0.25,
        ),
        NumericField(name="price", source=NumericSource(column="price", log=True), mean=0.0, std=1.0),
    ],
    sequences=[
        SequenceField(
            name="tags", length=2, sides=[IdField(name="tags", column="tags", embedding="tag")], separator=","
        ),
        SequenceField(
            name="seen",
            length=2,
            sides=[
                IdField(name="item_id", column="seen__item_id", embedding="item"),
                IdField(name="gap", column="seen__gap", embedding="gap"),
            ],
        ),
    ],
)
ROWS = pa.table(
    {
        "item_id": ["x", "new", None],
        "price": [1.0, None, 7.0],
        "clicks": [5.0, 0.0, None],
        "shown": [10.0, 0.0, None],
        "tags": ["t1,t2,t3", "t9", None],
        "seen__item_id": pa.array([["y", "x", "new"], [], None], pa.list_(pa.string())),
        "seen__gap": pa.array([[5.0, 3.0, None], [], None], pa.list_(pa.float64())),
    }
)


def make_index(*values: str) -> ValueIndex:
    """Return an index in which the values have the ids from 2 on."""
    return index_values(pa.array(values), np.arange(2, 2 + len(values), dtype=np.int32))


def test_a_number_that_did_not_vary_in_training_is_always_0() -> None:
    still = NumericField(name="still", source=NumericSource(column="price"), mean=3.0, std=0.0)
    _, floats = RowEncoder(
        LAYOUT.model_copy(update={"numeric": [still]}), {"item": make_index("x"), "tag": make_index("t1")}
    ).encode(ROWS)
    assert not np.frombuffer(b"".join(floats.to_pylist()), dtype=np.float32).any()


def test_missing_numbers_are_flagged() -> None:
    rows = pa.table({"price": [1.0, None, 7.0, np.nan, np.inf, 0.0]})
    flag = NumericField(name="price__missing", source=NumericSource(column="price", missing=True), mean=0.5, std=0.5)
    layout = LAYOUT.model_copy(update={"categorical": [], "buckets": [], "sequences": [], "numeric": [flag]})
    _, floats = RowEncoder(layout, {}).encode(rows)
    assert np.frombuffer(b"".join(floats.to_pylist()), dtype=np.float32).tolist() == [-1, 1, -1, 1, 1, -1]
    # Flags that are never or always set in training, like other constant numbers, say nothing.
    constant = layout.model_copy(update={"numeric": [flag.model_copy(update={"std": 0.0})]})
    assert not np.frombuffer(b"".join(RowEncoder(constant, {}).encode(rows)[1].to_pylist()), np.float32).any()
    assert "missing" not in LAYOUT.model_dump()["numeric"][0]["source"]
    assert layout.model_dump()["numeric"][0]["source"]["missing"]


def test_hashed_values_and_tables_without_known_values() -> None:
    layout = LAYOUT.model_copy(update={"embeddings": {**LAYOUT.embeddings, "item": 2 + 1000}, "hashed": ["item"]})
    ints, _ = RowEncoder(layout, {}).encode(ROWS)
    positions = np.frombuffer(b"".join(ints.to_pylist()), dtype=np.int32).reshape(3, LAYOUT.int_count)
    # 2 + h % 1000, where h is SipHash-2-4 mixed as in SplitMix64 (see test_value_index.py).
    assert positions[:, [0, 6, 7]].tolist() == [[319, 319, 108], [108, 0, 0], [0, 0, 0]]
    assert positions[:, 3:5].tolist() == [[1, 1], [1, 0], [0, 0]]


def test_rows_are_encoded_at_the_positions_of_the_layout() -> None:
    ints, floats = RowEncoder(LAYOUT, {"item": make_index("x", "y"), "tag": make_index("t1", "t2")}).encode(ROWS)
    positions = np.frombuffer(b"".join(ints.to_pylist()), dtype=np.int32).reshape(3, LAYOUT.int_count)
    #        item price | tags: length, ids | seen: length, items, gaps
    assert positions.tolist() == [
        [2, 3, 2, 2, 3, 2, 2, 1, 4, 1],  # the last two of `seen`, the first two of `tags`
        [1, 1, 1, 1, 0, 0, 0, 0, 0, 0],
        [0, 4, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
    numbers = np.frombuffer(b"".join(floats.to_pylist()), dtype=np.float32).reshape(3, 2)
    np.testing.assert_allclose(numbers[:, 0], [((5 + 5) / 20 - 0.5) / 0.25, 0.0, 0.0], atol=1e-7)
    np.testing.assert_allclose(numbers[:, 1], [np.log(2.0), 0.0, np.log(8.0)], rtol=1e-6)


def test_buckets_and_gaps() -> None:
    assert encode_buckets(np.array([0.0, 1.0, 1.5, 2.0, np.nan]), [1.0, 2.0]).tolist() == [2, 3, 3, 4, 1]
    assert encode_gaps(pa.array([None, 0.0, 1.0, 3.0, 1e12])).tolist() == [1, 2, 3, 4, 33]
