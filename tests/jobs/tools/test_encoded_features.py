"""Positions of features in encoded rows, and the exchange of their values among rows of a domain."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from star_ctr.conf.contracts.encoded_row import (
    BucketField,
    IdField,
    Layout,
    NumericField,
    NumericSource,
    SequenceField,
    VectorField,
)
from star_ctr.jobs.tools.encoded_features import RowPart, list_parts
from star_ctr.jobs.tools.explain import exchange, permute_in_domains

FEATURES = [
    {"name": "user", "kind": "categorical", "column": "user_id"},
    {"name": "pair", "kind": "categorical", "column": ["items.kind", "domain"]},
    {"name": "by_item", "kind": "statistic", "by": ["item_id"]},
    {"name": "by_item_domain", "kind": "statistic", "by": ["item_id", "domain"]},
    {"name": "price", "kind": "numeric", "column": "items.price"},
    {"name": "clicked", "kind": "sequence", "of": ["click"]},
]


def number(name: str) -> NumericField:
    return NumericField(name=name, source=NumericSource(column=name))


LAYOUT = Layout(
    ds="2026-01-02",
    domains=["a", "b"],
    embeddings={"user": 9, "pair": 9, "price__bucket": 4, "item": 9},
    categorical=[
        IdField(name="user", column="u", embedding="user"),
        IdField(name="pair", column=["i", "d"], embedding="pair"),
    ],
    buckets=[BucketField(name="price__bucket", source=NumericSource(column="p"))],
    numeric=[
        number("by_item__rate_click"),
        number("by_item__shown"),
        number("by_item_domain__rate_click"),
        number("price"),
    ],
    sequences=[SequenceField(name="clicked", length=3, sides=[IdField(name="item", column="s", embedding="item")])],
)


def test_all_positions_belong_to_the_right_feature() -> None:
    parts = {(p.kind, p.name): (p.ints, p.floats) for p in list_parts(FEATURES, LAYOUT)}
    assert parts == {
        ("feature", "user"): ((0,), ()),
        ("feature", "pair"): ((1,), ()),
        ("feature", "by_item"): ((), (0, 1)),
        ("feature", "by_item_domain"): ((), (2,)),
        ("feature", "price"): ((2,), (3,)),
        ("feature", "clicked"): ((3, 4, 5, 6), ()),
        ("group", "items"): ((1, 2), (3,)),
        ("group", "statistics"): ((), (0, 1, 2)),
    }


def test_a_vector_and_its_flag_are_exchanged_together() -> None:
    vectors = [VectorField(name=name, column=name, length=length, dim=2) for name, length in (("image", 3), ("by", 2))]
    features = [{"name": name, "kind": "vector", "column": f"items.{name}"} for name in ("by", "image")]
    numeric = [*LAYOUT.numeric, number("image__missing"), number("by__missing")]
    parts = list_parts([*FEATURES, *features], LAYOUT.model_copy(update={"numeric": numeric, "vectors": vectors}))
    floats = {p.name: p.floats for p in parts}
    assert (floats["image"], floats["by"]) == ((4, 6, 7, 8), (5, 9, 10))
    assert (floats["by_item"], floats["items"]) == ((0, 1), (3, 5, 9, 10, 4, 6, 7, 8))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 1000))
def test_rows_change_places_within_their_domain(domains: list[int], seed: int) -> None:
    numbers = np.array(domains, dtype=np.int32)
    order = permute_in_domains(numbers, np.random.default_rng(seed))
    assert sorted(order) == list(range(len(numbers)))
    assert np.array_equal(numbers[order], numbers)


def test_only_the_part_is_exchanged() -> None:
    rng = np.random.default_rng(0)
    ints, floats = rng.integers(0, 100, (50, 7)).astype(np.int32), rng.normal(size=(50, 4)).astype(np.float32)
    order = permute_in_domains(np.repeat([1, 2], 25).astype(np.int32), rng)
    assert (order != np.arange(50)).sum() > 30
    new_ints, new_floats = exchange(RowPart("feature", "price", (2,), (3,)), ints, floats, order)
    assert np.array_equal(new_ints[:, 2], ints[order, 2])
    assert np.array_equal(new_floats[:, 3], floats[order, 3])
    assert np.array_equal(np.delete(new_ints, 2, 1), np.delete(ints, 2, 1))
    assert np.array_equal(np.delete(new_floats, 3, 1), np.delete(floats, 3, 1))
    same_ints, same_floats = exchange(RowPart("feature", "clicked", (3, 4, 5, 6), ()), ints, floats, order)
    assert np.array_equal(same_ints[:, 3:], ints[order, 3:])
    assert np.array_equal(same_floats, floats)
