"""Vectors: their settings, and hashes of settings with and without them."""

from __future__ import annotations

from typing import Any

import pytest

from star_ctr.conf.contracts.run_id import (
    hash_features_settings,
    hash_history_settings,
    hash_ingest_settings,
    hash_log_settings,
    hash_split_settings,
)
from star_ctr.conf.errors import ConfigError
from star_ctr.conf.load import load
from star_ctr.conf.settings.features import Vector
from star_ctr.conf.settings.root import Settings

COMMAS = "logs.items.decimal=','"


def load_with(*features: dict[str, Any], overrides: tuple[str, ...] = ()) -> Settings:
    """Load the demo settings with vectors, whose defaults are a column of `items` and length 64."""
    vectors = [{"name": "image", "kind": "vector", "column": "items.image", "length": 64} | f for f in features]
    declared = [f.model_dump(mode="json", exclude_defaults=True) for f in load("demo").features]
    return load("demo", [f"features={[*declared, *vectors]}".replace("None", "null"), *overrides])


@pytest.mark.parametrize(
    ("length", "dim", "width"), [(1, None, 1), (32, None, 32), (33, None, 16), (1024, 64, 64), (24, 8, 8), (40, 40, 40)]
)
def test_long_vectors_are_projected(length: int, dim: int | None, width: int) -> None:
    more = {} if dim is None else {"dim": dim}
    assert (
        Vector.model_validate({"name": "v", "kind": "vector", "column": "items.v", "length": length} | more).width
        == width
    )


@pytest.mark.parametrize(
    ("feature", "overrides", "message"),
    [
        ({"column": "domain"}, (), "`domain` holds single values; choose a column of arrays"),
        ({"column": "users.image"}, ("logs.users=null",), "column of `logs.users`, which is not declared"),
        ({"length": 4097}, (), "features.image.length: this must be at most 4096"),
        ({"dim": 65}, (), "features.image: `dim` (65) is greater than `length` (64)"),
        (
            {},
            ("logs.items.types={image: double}",),
            "`items.image` is a double (logs.items.types.image); remove it there",
        ),
        ({}, (COMMAS,), "the separator `,` is also the decimal comma (logs.items.decimal); set another one"),
        ({"separator": ";"}, (COMMAS,), ""),
        ({}, (COMMAS, "logs.items.types={image: string}"), ""),
    ],
)
def test_settings_that_do_not_fit(feature: dict[str, Any], overrides: tuple[str, ...], message: str) -> None:
    overrides = ("logs.items.format=csv", *overrides)
    if not message:
        load_with(feature, overrides=overrides)
        return
    with pytest.raises(ConfigError) as caught:
        load_with(feature, overrides=overrides)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "other",
    [
        {"name": "other", "kind": "categorical", "multiple": True},
        {"name": "other", "kind": "numeric"},
        {"name": "other", "kind": "vector", "length": 32},
    ],
)
def test_a_column_of_vectors_has_no_other_reader(other: dict[str, Any]) -> None:
    declared = [{"name": "image", "kind": "vector", "length": 64}, other]
    features = [{"column": "items.image", **f} for f in declared]
    with pytest.raises(ConfigError, match=r"features.other: `items.image` is read as vectors by features.image; copy"):
        load("demo", [f"features={features}".replace("True", "true")])


def test_an_outcome_cannot_be_a_vector() -> None:
    with pytest.raises(ConfigError, match="declared an outcome"):
        load_with({"column": "impressions.image"}, overrides=("logs.impressions.outcomes=[image]",))


def test_what_a_vector_changes() -> None:
    plain, vector = load_with(), load_with({})
    assert hash_ingest_settings(plain) == hash_ingest_settings(vector), "ingest stores the column alike"
    assert hash_log_settings(plain, "items") == hash_log_settings(vector, "items")
    assert hash_history_settings(plain) == hash_history_settings(vector)
    for hash_settings in (hash_features_settings, hash_split_settings):
        assert hash_settings(plain) != hash_settings(vector)
    assert hash_features_settings(vector) == hash_features_settings(load_with({"dim": 8})), "only the model changes"
    assert hash_split_settings(vector) != hash_split_settings(load_with({"dim": 8}))
    separators = [load_with({"separator": s}, overrides=("logs.items.format=csv", COMMAS)) for s in (";", "|")]
    assert hash_log_settings(separators[0], "items") != hash_log_settings(separators[1], "items")
    assert hash_ingest_settings(separators[0]) != hash_ingest_settings(separators[1])
