"""The choice of nights: never the newest one, with days to train on, and an unseen night."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies as st

from star_ctr.conf.contracts.dates import list_days
from star_ctr.conf.errors import DataError, UserError
from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings
from star_ctr.workflows.tune.nights import Nights, choose_nights

DAYS = list_days("2026-03-01", "2026-03-08")


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load("demo")


def test_the_search_uses_the_two_nights_before_the_unseen_one(settings: Settings) -> None:
    found = choose_nights(settings, DAYS, "2026-03-08")
    assert found == Nights("2026-03-08", ["2026-03-05", "2026-03-06"], "2026-03-07")
    assert choose_nights(settings, DAYS, "2026-03-05").unseen == "2026-03-04"


def test_nights_need_a_day_to_train_on(settings: Settings) -> None:
    assert choose_nights(settings, DAYS[:4], "2026-03-04") == Nights("2026-03-04", ["2026-03-02"], "2026-03-03")
    with pytest.raises(
        DataError, match=r"the 2 complete days \(2026-03-01 to 2026-03-02\) before 2026-03-03 are too few"
    ):
        choose_nights(settings, DAYS[:3], "2026-03-03")
    gap = ["2026-03-01", "2026-03-02", "2026-03-03", "2026-03-08", "2026-03-09", "2026-03-10"]
    assert choose_nights(settings, gap, "2026-03-10") == Nights(
        "2026-03-10", ["2026-03-02", "2026-03-03"], "2026-03-09"
    )


def test_labels_of_a_training_day_must_be_final() -> None:
    late = load("demo", ["label.window_hours=72"])
    assert choose_nights(late, DAYS[:6], "2026-03-06") == Nights("2026-03-06", ["2026-03-04"], "2026-03-05")
    kept = load("demo", ["label.window_hours=72", "label.open=keep"])
    assert choose_nights(kept, DAYS[:4], "2026-03-04") == Nights("2026-03-04", ["2026-03-02"], "2026-03-03")


def test_given_nights_are_checked(settings: Settings) -> None:
    found = choose_nights(settings, DAYS, "2026-03-08", ["2026-03-06", "2026-03-03"])
    assert found.search == ["2026-03-03", "2026-03-06"]
    for night, reason in (
        ("2026-03-07", "is reserved as the unseen night"),
        ("2026-03-08", "is after the unseen night"),
        ("2026-03-09", "is after the unseen night"),
        ("2026-03-01", "the logs lack this day, or days to train on"),
        ("3 March", "3 March"),
    ):
        with pytest.raises((UserError, DataError), match=reason):
            choose_nights(settings, DAYS, "2026-03-08", [night])


@hypothesis.given(st.sets(st.sampled_from(DAYS), min_size=1), st.sampled_from(DAYS))
def test_no_night_is_at_or_after_the_newest_one(settings: Settings, days: set[str], newest: str) -> None:
    try:
        found = choose_nights(settings, sorted(days), newest)
    except DataError:
        return
    assert found.search
    assert max(found.search) < found.unseen < newest
    assert {*found.search, found.unseen} <= days
