"""Values found among known ones: as Arrow finds them, by the other way too."""

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


@given(known=st.lists(TEXT, unique=True, max_size=60), wanted=st.lists(st.none() | TEXT, max_size=12))
def test_the_positions_are_those_that_arrow_finds(known: list[str], wanted: list[str | None]) -> None:
    values = pa.array(known, pa.string())
    asked = pa.array([*wanted, *known[:3]], pa.string())
    for given_as in (asked, pa.chunked_array([asked[:2], asked[2:]])):
        found = ValueIndex(values).find(given_as)
        expected = pc.index_in(given_as, value_set=values)
        assert found.to_pylist() == expected.to_pylist()


def many(rng: np.random.Generator) -> tuple[pa.Array, pa.Array]:
    return pa.array(rng.permutation(5_000).astype("U8")), pa.array(rng.integers(0, 6_000, 500).astype("U8"))


def test_a_hash_that_an_unknown_value_shares_is_no_match(monkeypatch: pytest.MonkeyPatch) -> None:
    known, wanted = many(np.random.default_rng(0))
    expected = pc.index_in(wanted, value_set=known).to_pylist()
    whole = value_index._hash_values
    known_hashes = whole(known)
    # Every wanted value gets the hash of a known one, which for most is not its own.
    monkeypatch.setattr(
        value_index, "_hash_values", lambda v: known_hashes if len(v) == len(known) else known_hashes[: len(v)]
    )
    found = ValueIndex(known).find(wanted).to_pylist()
    distinct = wanted.dictionary_encode().dictionary.to_pylist()
    own = {value: known[k].as_py() == value for k, value in enumerate(distinct)}
    assert all(f == (e if own[w] else None) for f, e, w in zip(found, expected, wanted.to_pylist(), strict=True))


def test_known_values_of_one_hash_are_still_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    known, wanted = many(np.random.default_rng(1))
    monkeypatch.setattr(value_index, "_hash_values", lambda v: np.zeros(len(v), dtype=np.uint64))
    assert ValueIndex(known).find(wanted).to_pylist() == pc.index_in(wanted, value_set=known).to_pylist()
