"""Ledger entries of training runs: each row of the split is trained on or left out for one reason."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest

from star_ctr.jobs.io import train_ledger

SPLIT = [("a", 100), ("b", 50), ("c", 7)]


def write(monkeypatch: pytest.MonkeyPatch, **record: dict[str, int]) -> tuple[list[Any], list[str]]:
    entries: list[Any] = []
    job = SimpleNamespace(
        run_id="r", ds="2026-01-02", split="split", versions={"split": 1}, trainer=SimpleNamespace(epochs=2)
    )
    monkeypatch.setattr(train_ledger, "read_train_rows", lambda *_: None)
    monkeypatch.setattr(train_ledger, "count_rows_by_domain", lambda _: SPLIT)
    store = SimpleNamespace(write_run_ledger=lambda step, rows: entries.extend(rows) if step == "train" else None)
    incomplete = train_ledger.write_trained_rows(store, [(job, record)])  # type: ignore[list-item, arg-type]
    return entries, incomplete


def test_rows_of_excluded_domains_and_unsampled_rows_have_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    entries, incomplete = write(monkeypatch, rows={"a": 2 * 30, "c": 2 * 7}, left_out={"a": 70}, excluded={"b": 50})
    assert incomplete == []
    found = {(e.domain, e.reason): (e.rows_in, e.rows_out) for e in entries}
    assert found == {
        ("a", ""): (30, 30),
        ("a", train_ledger.NOT_SAMPLED): (70, 0),
        ("b", train_ledger.EXCLUDED_DOMAIN): (50, 0),
        ("c", ""): (7, 7),
    }
    totals: dict[str, int] = defaultdict(int)
    for e in entries:
        totals[e.domain] += e.rows_in
    assert dict(totals) == dict(SPLIT)


@pytest.mark.parametrize("rows", [{"a": 200, "c": 14}, {"a": 200, "b": 98, "c": 14}, {"a": 200, "b": 100, "c": 12}])
def test_a_run_that_misses_rows_without_a_reason_is_incomplete(
    monkeypatch: pytest.MonkeyPatch, rows: dict[str, int]
) -> None:
    assert write(monkeypatch, rows=rows)[1] == ["r"]


def test_records_of_earlier_versions_have_no_excluded_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    entries, incomplete = write(monkeypatch, rows={"a": 200, "b": 100, "c": 14})
    assert incomplete == []
    assert [(e.domain, e.rows_in, e.rows_out, e.reason) for e in entries] == [(d, n, n, "") for d, n in SPLIT]
