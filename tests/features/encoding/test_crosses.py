"""Crosses: combinations of values are unambiguous, and missing if one part is missing."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from star_ctr.conf.contracts.encoded_row import IdField, Layout
from star_ctr.features.encoding.crosses import combine_values
from star_ctr.features.encoding.row_encoder import RowEncoder
from star_ctr.features.encoding.value_index import index_values

PART = st.text(alphabet=["a", "|", "\\", "ß"], max_size=4)


@given(rows=st.lists(st.tuples(PART, PART, PART), min_size=1, max_size=40, unique=True))
def test_different_combinations_have_different_values(rows: list[tuple[str, ...]]) -> None:
    combined = combine_values([pa.array(column) for column in zip(*rows, strict=True)]).to_pylist()
    assert combined == ["|".join(part.replace("\\", "\\\\").replace("|", "\\|") for part in row) for row in rows]
    assert len(set(combined)) == len(rows)


def test_a_combination_with_a_missing_part_is_missing() -> None:
    columns = [pa.chunked_array([["a", None], ["", "b"]]), pa.chunked_array([["x", "y", ""], [None]])]
    assert combine_values(columns).to_pylist() == ["a|x", None, "|", None]
    assert combine_values(columns[:1]) is columns[0]


def test_encoding_of_a_cross() -> None:
    layout = Layout(
        ds="2026-01-01", domains=["a"], embeddings={"c": 5, "h": 102}, buckets=[], numeric=[], sequences=[],
        categorical=[
            IdField(name="c", column=["x", "y"], embedding="c"), IdField(name="h", column=["y", "x"], embedding="h"),
        ],
        hashed=["h"],
    )  # fmt: skip
    assert layout.columns == ["x", "y"]
    known = index_values(pa.array(["a|1", "a\\||1", "b|2"]), np.array([2, 3, 4], dtype=np.int32))
    rows = pa.table({"x": ["a", "a|", None, "b", "z"], "y": ["1", "1", "1", "2", "2"]})
    ints, _ = RowEncoder(layout, {"c": known}).encode(rows)
    ids = np.frombuffer(b"".join(ints.to_pylist()), np.int32).reshape(5, 2)
    assert ids[:, 0].tolist() == [2, 3, 0, 4, 1]
    assert ids[2, 1] == 0
    assert (ids[[0, 1, 3, 4], 1] >= 2).all()
    assert len(set(ids[[0, 1, 3, 4], 1])) > 1
