"""Settings of further outcomes (`label.also`)."""

from __future__ import annotations

from typing import Any

import pytest

from star_ctr.conf.contracts.run_id import hash_config, hash_features_settings, hash_log_settings, hash_split_settings
from star_ctr.conf.errors import UserError
from star_ctr.conf.load import load
from star_ctr.conf.settings.label import OutcomeColumn, OutcomeEvents
from star_ctr.conf.settings.root import Settings

EVENTS = "logs.events={path: events.csv, impression: view, event: what, time: {column: at}}"


def configure(also: str, *overrides: str) -> Settings:
    return load("demo", [f"label.also={also}", *overrides])


def test_a_number_is_the_weight_of_a_column() -> None:
    also = configure("{long_view: 0.3}").label.also
    assert also == {"long_view": OutcomeColumn(weight=0.3)}


def test_outcomes_are_sorted_and_their_columns_cannot_be_features() -> None:
    settings = configure("{view: {column: long_view}, buy: {window_hours: 72}}", EVENTS, "window.days=3")
    assert settings.label.outcomes == ["buy", "view"]
    assert isinstance(settings.label.also["buy"], OutcomeEvents)
    assert "long_view" in settings.get_outcomes()


@pytest.mark.parametrize(
    ("also", "overrides", "message"),
    [
        ("{a: 0}", [], "greater than 0"),
        ("{a b: 1}", [], "may only have letters"),
        ("{a: 1, A: 1}", [], "differs from `a` only in case"),
        ("{a: {negative: [1]}}", [], "both `positive` and `negative`"),
        ("{a: {window_hours: 2}}", [], "`logs.events` is not declared"),
        ("{a: {window_hours: 72}}", [EVENTS, "window.days=2"], "set window.days to at least 3"),
        ("{}", ["trainer.outcome_weight=0.5"], "there are no further outcomes"),
    ],
)
def test_problems_have_one_clear_message(also: str, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        configure(also, *overrides)


def test_hashes_depend_on_what_outcomes_affect() -> None:
    def hash_all(settings: Settings) -> dict[str, Any]:
        return {
            "run": hash_config(settings),
            "split": hash_split_settings(settings),
            "features": hash_features_settings(settings),
            "impressions": hash_log_settings(settings, "impressions"),
            "users": hash_log_settings(settings, "users"),
        }

    def list_differences(one: Settings, other: Settings) -> list[str]:
        a, b = hash_all(one), hash_all(other)
        return [name for name in a if a[name] != b[name]]

    light = configure("{view: 0.3}")
    assert list_differences(light, configure("{view: 0.5}")) == ["run"]
    assert list_differences(light, configure("{view: {column: other}}")) == ["run", "split", "impressions"]
    assert list_differences(light, configure("{}")) == ["run", "split", "impressions"]
    assert list_differences(load("demo"), configure("{}")) == []
