"""Match rates of clicks and of the events of further outcomes."""

from __future__ import annotations

from pathlib import Path

import pytest

from star_ctr.conf.load import load
from star_ctr.jobs.io.warehouse import LedgerEntry
from star_ctr.jobs.quality.match_rates import describe_matches, measure_clicks, measure_events
from star_ctr.jobs.quality.measures import EARLY, MATCH, write_measures

DAYS = ("2026-03-01", "2026-03-02")


def make_entries(word: str) -> list[LedgerEntry]:
    """Return entries of two days and domains, and of a day that is not measured."""
    statuses = {
        "": 10,
        f"{word} after the attribution window": 5,
        f"repeated {word}": 3,
        f"{word} before its impression": 2,
    }
    counts = [(DAYS[0], "a", n, status) for status, n in statuses.items()]
    counts += [(DAYS[0], "b", 20, ""), (DAYS[1], "b", 30, f"{word} without impression"), (DAYS[1], "b", 10, "")]
    counts += [("2026-02-28", "a", 99, "")]
    return [LedgerEntry(ds, domain, n, n if status == "" else 0, status) for ds, domain, n, status in counts]


def test_every_event_with_an_impression_is_matched() -> None:
    found = measure_events("order", make_entries("event"), DAYS)
    assert [(m.ds, m.log, m.name, m.measure, m.rows, m.hits) for m in found] == [
        (DAYS[0], "events", "order", MATCH, 40, 40),
        (DAYS[1], "events", "order", MATCH, 40, 10),
    ]


def test_only_clicks_that_set_a_label_are_matched() -> None:
    found = measure_clicks(make_entries("click"), DAYS)
    assert [(m.ds, m.measure, m.rows, m.hits) for m in found] == [
        (DAYS[0], MATCH, 40, 30), (DAYS[0], EARLY, 40, 2), (DAYS[1], MATCH, 40, 10), (DAYS[1], EARLY, 40, 0),
    ]  # fmt: skip


@pytest.mark.parametrize(("ds", "share", "is_low"), [(DAYS[0], "100.0%", False), (DAYS[1], "25.0%", True)])
def test_match_rates_are_described(tmp_path: Path, ds: str, share: str, is_low: bool) -> None:
    settings = load("demo", [f"paths.warehouse={tmp_path}"])
    write_measures(settings, "features", measure_events("order", make_entries("event"), DAYS), "true")
    [line] = describe_matches(settings, ds)
    assert line.startswith(f"{share} of 40 events of `label.also.order` matched an impression")
    assert line.endswith("; check that logs.events.impression has the same ids as the impressions") is is_low
