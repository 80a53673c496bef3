"""Domain names and numbers."""

from __future__ import annotations

import pytest

from star_ctr.conf.contracts.domains import MIXED, OTHER_DOMAIN, OVERALL, DomainIndex, domain_sort_key
from star_ctr.conf.contracts.encoded_row import Layout


def test_numbers_and_names() -> None:
    index = DomainIndex(["home", "search"])
    assert [index.get_number(name) for name in ("home", "search", "new")] == [1, 2, OTHER_DOMAIN]
    assert [index.get_name(number) for number in (0, 1, 2, MIXED)] == ["other", "home", "search", "mixed"]
    assert len(index) == 3
    assert DomainIndex(["a", "b", "a"]).get_number("a") == 1, "the first one, as in Arrow"
    assert "home" in index
    assert "other" not in index, "unknown domains are not a known domain"
    with pytest.raises(IndexError):
        index.get_name(3)


def test_overall_is_sorted_last_and_numbers_by_value() -> None:
    names = [OVERALL, "b", "10", "9", "a"]
    assert sorted(names, key=domain_sort_key) == ["9", "10", "a", "b", OVERALL]


def test_a_layout_makes_its_index_once_and_a_copy_has_another() -> None:
    layout = Layout(ds="d", domains=["a"], embeddings={}, categorical=[], buckets=[], numeric=[], sequences=[])
    assert layout.domain_index is layout.domain_index
    assert layout.model_copy(update={"domains": ["b", "a"]}).domain_index.get_number("a") == 2
