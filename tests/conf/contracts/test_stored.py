"""Stored models that are damaged, or that another version wrote."""

from __future__ import annotations

import pytest

from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.contracts.stored import parse_stored
from star_ctr.conf.errors import DataError


@pytest.mark.parametrize(
    ("stored", "problem"),
    [
        ({"ds": "2026-01-01", "rows": 3}, r"domains: Field required"),
        ('{"ds": "2026-', r"\(Invalid JSON: EOF"),
    ],
)
def test_a_stored_model_that_cannot_be_read_is_named(stored: str | dict[str, object], problem: str) -> None:
    with pytest.raises(DataError, match=f"^layout.json: not a valid Layout .*{problem}.*run the night again"):
        parse_stored(Layout, stored, "layout.json")
