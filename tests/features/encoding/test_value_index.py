"""The value index finds the same ids as Arrow, whatever the hashes, in memory and mapped from a file."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from star_ctr.features.encoding import value_index
from star_ctr.features.encoding.id_encoder import encode_ids
from star_ctr.features.encoding.value_index import hash_values, index_values

TEXT = st.text(max_size=6)


def compute_ids(values: pa.Array | pa.ChunkedArray, known: pa.Array, ids: np.ndarray) -> list[int | None]:
    """Find ids with Arrow."""
    return [None if k is None else int(ids[k]) for k in pc.index_in(values, value_set=known).to_pylist()]


@given(known=st.lists(TEXT, unique=True, max_size=60), queried=st.lists(st.none() | TEXT, max_size=12))
def test_ids_match_arrow(known: list[str], queried: list[str | None]) -> None:
    values, ids = pa.array(known, pa.string()), np.arange(len(known), dtype=np.int32) * 3 + 2
    values_to_find = pa.array([*queried, *known[:3]], pa.string())
    for form in (values_to_find, pa.chunked_array([values_to_find[:2], values_to_find[2:]])):
        assert index_values(values, ids).find(form).to_pylist() == compute_ids(form, values, ids)


def test_missing_unknown_and_known_values_have_their_ids() -> None:
    known = index_values(pa.array(["a", "", "ß"]), np.array([2, 3, 4], dtype=np.int32))
    values = pa.chunked_array([["ß", None], ["b", ""], ["a", None]])
    assert encode_ids(values, known).tolist() == [4, 0, 1, 3, 2, 0]
    nothing = index_values(pa.array([], pa.string()), np.zeros(0, dtype=np.int32))
    assert encode_ids(values, nothing).tolist() == [1, 0, 1, 1, 1, 0]


def make_many_values(rng: np.random.Generator) -> tuple[pa.Array, pa.Array]:
    return pa.array(rng.permutation(5_000).astype("U8")), pa.array(rng.integers(0, 6_000, 500).astype("U8"))


@pytest.mark.parametrize("distinct_hashes", [1, 7, 1_000])
def test_values_with_equal_hashes_are_distinguished(monkeypatch: pytest.MonkeyPatch, distinct_hashes: int) -> None:
    known, queried = make_many_values(np.random.default_rng(0))
    ids = np.random.default_rng(1).permutation(5_000).astype(np.int32)
    modulus = np.uint64(distinct_hashes)
    monkeypatch.setattr(value_index, "hash_values", lambda v: hash_values(v) % modulus)
    assert index_values(known, ids).find(queried).to_pylist() == compute_ids(queried, known, ids)


def test_an_unknown_value_with_the_hash_of_a_known_one_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_index, "hash_values", lambda v: np.full(len(v), 2**64 - 1, dtype=np.uint64))
    known = index_values(pa.array(["a"]), np.array([2], dtype=np.int32))
    assert known.find(pa.array(["b", "a", None])).to_pylist() == [None, 2, None]


def compute_hash(text: str) -> int:
    """Compute SipHash-2-4 as in its paper (Aumasson and Bernstein, 2012), and mix it as in SplitMix64."""
    mask, key, data = 2**64 - 1, b"0123456789123456", text.encode()
    k0, k1 = (int.from_bytes(key[i : i + 8], "little") for i in (0, 8))
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def rotate(x: int, bits: int) -> int:
        return ((x << bits) | (x >> (64 - bits))) & mask

    def scramble(rounds: int) -> None:
        for _ in range(rounds):
            for a, b, s, t in ((0, 1, 13, 32), (2, 3, 16, 0), (0, 3, 21, 0), (2, 1, 17, 32)):
                v[a] = (v[a] + v[b]) & mask
                v[b] = rotate(v[b], s) ^ v[a]
                v[a] = rotate(v[a], t) if t else v[a]

    data += bytes(7 - len(data) % 8) + bytes([len(data) % 256])
    for start in range(0, len(data), 8):
        word = int.from_bytes(data[start : start + 8], "little")
        v[3] ^= word
        scramble(2)
        v[0] ^= word
    v[2] ^= 0xFF
    scramble(4)
    x = v[0] ^ v[1] ^ v[2] ^ v[3]
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & mask
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & mask
    return x ^ (x >> 31)


def test_the_hash_has_known_values() -> None:
    texts = ["", "a", "item-1", "12345678", "ß🙂", "x" * 300]
    assert hash_values(pa.array(texts)).tolist() == [compute_hash(text) for text in texts]
    assert hash_values(pa.array(["", "item-1"])).tolist() == [1760245841805064774, 17411121567957968829]


@given(texts=st.lists(TEXT, min_size=1, max_size=9))
def test_the_hash_is_siphash(texts: list[str]) -> None:
    assert hash_values(pa.array(texts)).tolist() == [compute_hash(text) for text in texts]


def test_hashes_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    values = pa.array([f"v{k}" for k in range(50)])
    expected = hash_values(values)
    monkeypatch.setattr(value_index, "_VALUES_PER_HASHING", 7)
    np.testing.assert_array_equal(hash_values(values), expected)
