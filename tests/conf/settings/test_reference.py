"""The section `reference`: the nights on which references are due, and what it must not change."""

from __future__ import annotations

import datetime as dt

import pytest

from star_ctr.conf.contracts.dates import list_days
from star_ctr.conf.contracts.run_id import (
    hash_config,
    hash_features_settings,
    hash_ingest_settings,
    hash_split_settings,
    is_reference,
    make_reference_run_id,
    make_run_id,
)
from star_ctr.conf.errors import ConfigError
from star_ctr.conf.load import load
from star_ctr.conf.settings.reference import ReferenceSettings

INCREMENTAL = ["window.days=1", "split.vocabulary=grown", "trainer.warm_start=previous"]


@pytest.mark.parametrize("every", [1, 2, 3, 7, 10])
def test_nights_are_counted_from_a_fixed_day(every: int) -> None:
    days = list_days("2025-12-01", "2026-02-28")
    due = [day for day in days if ReferenceSettings(every_nights=every).is_due(day)]
    distances = {(dt.date.fromisoformat(b) - dt.date.fromisoformat(a)).days for a, b in zip(due, due[1:], strict=False)}
    assert distances == {every}, "across the ends of months and of the year"
    assert ReferenceSettings(every_nights=every).is_due("2001-01-01")


def test_seven_selects_the_nights_of_mondays() -> None:
    due = [day for day in list_days("2026-01-01", "2026-12-31") if ReferenceSettings().is_due(day)]
    assert {dt.date.fromisoformat(day).isoweekday() for day in due} == {1}
    assert len(due) == 52


def test_the_section_does_not_change_the_identity_of_a_run() -> None:
    without, others = (
        load("demo", INCREMENTAL),
        [load("demo", [*INCREMENTAL, f"reference={{every_nights: {n}}}"]) for n in (1, 9)],
    )
    assert "reference" not in without.model_dump(mode="json")
    for compute in (hash_config, hash_split_settings, hash_features_settings, hash_ingest_settings):
        assert len({compute(settings) for settings in (without, *others)}) == 1
    run = make_run_id(without, "2026-03-02")
    assert make_run_id(others[0], "2026-03-02") == run
    assert (is_reference(run), is_reference(make_reference_run_id(run))) == (False, True)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trainer.warm_start=null"], "reference: every night is trained from scratch; set trainer.warm_start"),
        (["split.vocabulary=fitted"], "set split.vocabulary to grown"),
        (["window.days=8"], r"reference.window_days: 7 is less than window.days \(8\).*set it to at least 8"),
        (
            ["model.embeddings={item: {expire_days: 6}}"],
            r"item.expire_days: 6 is less than reference.window_days \(7\)",
        ),
        (["reference.every_nights=0"], "reference.every_nights: this must be at least 1"),
    ],
)
def test_sections_without_effect_are_rejected(overrides: list[str], words: str) -> None:
    load("demo", [*INCREMENTAL, "reference={}", "model.embeddings={item: {expire_days: 7}}"])
    with pytest.raises(ConfigError, match=words):
        load("demo", [*INCREMENTAL, "reference={}", *overrides])
