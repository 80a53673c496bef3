"""The value index finds the same positions as Arrow, for both of its methods."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from star_ctr.features.encoding import value_index
from star_ctr.features.encoding.value_index import ValueIndex

TEXT = st.text(max_size=6)


@given(known=st.lists(TEXT, unique=True, max_size=60), queried=st.lists(st.none() | TEXT, max_size=12))
def test_positions_match_arrow(known: list[str], queried: list[str | None]) -> None:
    values = pa.array(known, pa.string())
    values_to_find = pa.array([*queried, *known[:3]], pa.string())
    for form in (values_to_find, pa.chunked_array([values_to_find[:2], values_to_find[2:]])):
        found = ValueIndex(values).find(form)
        expected = pc.index_in(form, value_set=values)
        assert found.to_pylist() == expected.to_pylist()


def make_many_values(rng: np.random.Generator) -> tuple[pa.Array, pa.Array]:
    return pa.array(rng.permutation(5_000).astype("U8")), pa.array(rng.integers(0, 6_000, 500).astype("U8"))


def test_an_unknown_value_with_the_hash_of_a_known_one_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    known, queried = make_many_values(np.random.default_rng(0))
    expected = pc.index_in(queried, value_set=known).to_pylist()
    hash_values = value_index._hash_values
    known_hashes = hash_values(known)
    # Each queried value gets the hash of a known value, usually of a different one.
    monkeypatch.setattr(
        value_index, "_hash_values", lambda v: known_hashes if len(v) == len(known) else known_hashes[: len(v)]
    )
    found = ValueIndex(known).find(queried).to_pylist()
    distinct = queried.dictionary_encode().dictionary.to_pylist()
    is_known = {value: known[k].as_py() == value for k, value in enumerate(distinct)}
    assert all(f == (e if is_known[w] else None) for f, e, w in zip(found, expected, queried.to_pylist(), strict=True))


def test_known_values_with_equal_hashes_are_distinguished(monkeypatch: pytest.MonkeyPatch) -> None:
    known, queried = make_many_values(np.random.default_rng(1))
    monkeypatch.setattr(value_index, "_hash_values", lambda v: np.zeros(len(v), dtype=np.uint64))
    assert ValueIndex(known).find(queried).to_pylist() == pc.index_in(queried, value_set=known).to_pylist()
