"""Jumps in the data: few false alarms on healthy days, and plain sentences about what changed."""

from __future__ import annotations

import datetime as dt
from collections import Counter

import pytest

from star_ctr.jobs.quality.jump_list import MAX_JUMPS, JumpList, list_skipped_hours
from star_ctr.jobs.quality.jumps import Jump, find_jumps
from star_ctr.jobs.quality.measures import (
    CLICKED,
    DISTINCT,
    DOMAIN,
    DUPLICATES,
    EARLY,
    HEAVIEST,
    HOUR,
    LEFT_OUT,
    MATCH,
    MEDIAN,
    NULL,
    QUARANTINED,
    ROWS,
    SPREAD,
    UNPARSABLE,
    UNSEEN,
    Measure,
)  # fmt: skip
from tests.jobs.quality.healthy_measures import FIRST, HealthyLogs

DATA_SETS, DAYS = 12, 33


def name_day(k: int) -> str:
    return (FIRST + dt.timedelta(days=k)).isoformat()


def test_at_most_one_healthy_night_in_thirty_has_a_jump() -> None:
    nights, alarms = 0, Counter[str]()
    for seed in range(DATA_SETS):
        logs = HealthyLogs(seed)
        days = [logs.draw_day(k) for k in range(DAYS)]
        for k in range(3, DAYS):
            found = find_jumps([m for day in days[max(0, k - 14) : k + 1] for m in day], name_day(k))
            nights += 1
            alarms["nights"] += bool(found)
            alarms.update(f"{jump.measure}: {jump.sentence}" for jump in found)
    print(f"{alarms.pop('nights', 0)} of {nights} healthy nights have a jump")
    assert nights >= 300
    assert sum(alarms.values()) <= nights / 30, alarms


def draw(usual: Measure, now: Measure, days: int = 8) -> list[Jump]:
    """Find the jumps of a day whose measure is `now`, after days with the measure `usual`."""
    measures = [usual._replace(ds=name_day(k)) for k in range(days)]
    whole = [Measure(name_day(k), "impressions", "", ROWS, 10_000, 10_000) for k in range(days + 1)]
    whole += [Measure(name_day(k), "impressions", "", CLICKED, 10_000, 300) for k in range(days + 1)]
    if (now.name, now.measure) in (("", ROWS), ("", CLICKED)):
        whole = [m for m in whole if m.measure != now.measure]
    if now.measure == MEDIAN:
        measures += [usual._replace(ds=name_day(k), measure=SPREAD, value=8.0) for k in range(days + 1)]
    return find_jumps([*measures, *whole, now._replace(ds=name_day(days))], name_day(days))


def measure(name: str, kind: str, hits: int, rows: int = 10_000, value: float | None = None, **more: str) -> Measure:
    return Measure("", more.get("log", "impressions"), name, kind, rows, hits, value, more.get("example", ""))


SENTENCES = [
    (measure("impressions.slot", NULL, 20), measure("impressions.slot", NULL, 3_100), "null share of impressions.slot rose from 0.2% to 31%"),
    (measure("impressions.slot", NULL, 3_100), measure("impressions.slot", NULL, 0), "null share of impressions.slot fell from 31% to 0%"),
    (measure("search", DOMAIN, 4_100), measure("search", DOMAIN, 120), "domain search has 120 rows, usually 4,100"),
    (measure("clicks", MATCH, 980, 1_000, log="clicks"), measure("clicks", MATCH, 410, 1_000, log="clicks"), "only 41% of clicks matched an impression, usually 98%"),
    (measure("items", MATCH, 9_900, log="items"), measure("items", MATCH, 9_000, log="items"), "only 90% of impressions matched items, usually 99%"),
    (measure("impressions.price", MEDIAN, 9_000, value=12.5), measure("impressions.price", MEDIAN, 9_000, value=1250.0), "median of impressions.price rose from 12.5 to 1,250"),
    (measure("impressions.price", SPREAD, 9_000, value=8.0), measure("impressions.price", SPREAD, 9_000, value=80.0), "interquartile range of impressions.price rose from 8 to 80"),
    (measure("", CLICKED, 300), measure("", CLICKED, 100), "click rate fell from 3% to 1%"),
    (measure("search", CLICKED, 60, 2_000), measure("search", CLICKED, 180, 2_000), "click rate of domain search rose from 3% to 9%"),
    (measure("", ROWS, 10_000), measure("", ROWS, 4_000), "impressions has 4,000 rows, usually 10,000"),
    (measure("", ROWS, 800, 800, log="clicks"), measure("", ROWS, 0, 0, log="clicks"), "clicks has no rows, usually 800"),
    (measure("", DUPLICATES, 10), measure("", DUPLICATES, 800), "8% of the rows of impressions are duplicates, usually 0.1%"),
    (measure("user: missing", QUARANTINED, 2), measure("user: missing", QUARANTINED, 500), "5% of the rows of impressions are quarantined because of `user: missing`, usually 0.02%"),
    (measure("clicks", EARLY, 0, 1_000, log="clicks"), measure("clicks", EARLY, 50, 1_000, log="clicks"), "5% of clicks precede their impression, usually 0%"),
    (measure("impressions.slot", UNPARSABLE, 10), measure("impressions.slot", UNPARSABLE, 800, example="n/a"), "8% of the values of impressions.slot cannot be parsed (such as `n/a`), usually 0.1%"),
    (measure("users.tier", UNSEEN, 10), measure("users.tier", UNSEEN, 10_000), "100% of the values of users.tier did not occur on the earlier days, usually 0.1%"),
    (measure("impressions.user", HEAVIEST, 40), measure("impressions.user", HEAVIEST, 2_000, example="bot"), "one user (bot) has 20% of the rows of impressions, usually 0.4%"),
    (measure("impressions.user", DISTINCT, 3_000), measure("impressions.user", DISTINCT, 5), "impressions.user has 5 distinct values, usually 3,000"),
    (measure("impressions.slot", DISTINCT, 5), measure("impressions.slot", DISTINCT, 1, example="3"), "impressions.slot has a single value (3), usually 5 distinct values"),
]  # fmt: skip


@pytest.mark.parametrize(("usual", "now", "sentence"), SENTENCES, ids=[text for *_, text in SENTENCES])
def test_a_jump_is_described_in_one_sentence(usual: Measure, now: Measure, sentence: str) -> None:
    (jump,) = draw(usual, now)
    assert jump.sentence == sentence
    assert len(jump.values) == 9
    assert draw(usual, usual) == []
    assert draw(usual, now, days=2) == [], "nothing is compared with fewer than three earlier days"
    assert len(draw(usual, now, days=3)) == 1


def test_changes_of_small_samples_are_no_jumps() -> None:
    assert draw(measure("search", CLICKED, 2, 60), measure("search", CLICKED, 6, 60)) == []
    assert draw(measure("search", DOMAIN, 8), measure("search", DOMAIN, 0)) == []
    assert draw(measure("impressions.slot", NULL, 0, 30), measure("impressions.slot", NULL, 2, 30)) == []
    assert draw(measure("clicks", MATCH, 10, 10, log="clicks"), measure("clicks", MATCH, 8, 10, log="clicks")) == []


def test_a_new_and_a_missing_domain_are_reported() -> None:
    base = [m for k in range(9) for m in (Measure(name_day(k), "impressions", "", CLICKED, 10_000, 300),)]
    days = [Measure(name_day(k), "impressions", "mail", DOMAIN, 10_000, 900) for k in range(8)]
    renamed = Measure(name_day(8), "impressions", "e-mail", DOMAIN, 10_000, 900)
    found = {jump.sentence for jump in find_jumps([*base, *days, renamed], name_day(8))}
    assert found == {"domain mail has no rows, usually 900", "domain e-mail is new, with 900 rows"}


def test_a_weekly_pattern_is_no_jump() -> None:
    """A domain without rows on Sundays: the first Sunday is reported, but not the second one."""
    measures = []
    for k in range(14):
        measures.append(Measure(name_day(k), "impressions", "", CLICKED, 10_000, 300))
        if k % 7 != 6:
            measures.append(Measure(name_day(k), "impressions", "desk", DOMAIN, 10_000, 900))
    assert [len(find_jumps(measures, name_day(k))) for k in (6, 7, 13)] == [1, 0, 0]


def test_missing_hours_are_reported_as_a_range() -> None:
    measures = []
    for k in range(6):
        rows = [40 if hour < 5 else 400 for hour in range(24)]
        if k == 5:
            rows[13:] = [0] * 11
            rows[3] = 0
        measures += [Measure(name_day(k), "impressions", f"{h:02d}", HOUR, sum(rows), n) for h, n in enumerate(rows)]
    sentences = [jump.sentence for jump in find_jumps(measures, name_day(5))]
    assert sentences == ["no rows of impressions between 03:00 and 04:00 and between 13:00 and 24:00"]
    assert find_jumps(measures, name_day(4)) == []


def test_a_change_of_all_domains_is_reported_once() -> None:
    """The click rates of all domains triple, or the rows of all domains are cut to a quarter."""

    def draw_day(k: int, size: int, rate: float) -> list[Measure]:
        found = [
            Measure(name_day(k), "impressions", "", ROWS, 6 * size, 6 * size),
            Measure(name_day(k), "impressions", "", CLICKED, 6 * size, int(6 * size * rate)),
        ]
        for d in range(6):
            found.append(Measure(name_day(k), "impressions", f"d{d}", DOMAIN, 6 * size, size))
            found.append(Measure(name_day(k), "impressions", f"d{d}", CLICKED, size, int(size * rate)))
        return found  # fmt: skip

    usual = [m for k in range(7) for m in draw_day(k, 4_000, 0.03)]
    tripled = find_jumps([*usual, *draw_day(7, 4_000, 0.09)], name_day(7))
    assert [jump.sentence for jump in tripled] == ["click rate rose from 3% to 9%"]
    cut = find_jumps([*usual, *draw_day(7, 1_000, 0.03)], name_day(7))
    assert [jump.sentence for jump in cut] == ["impressions has 6,000 rows, usually 24,000"]


def test_the_most_severe_jumps_come_first_and_the_list_is_capped() -> None:
    base = [Measure(name_day(k), "impressions", "", ROWS, 9_000, 9_000 if k < 7 else 900) for k in range(8)]
    for c in range(15):
        base += [
            Measure(name_day(k), "impressions", f"impressions.c{c:02d}", NULL, 9_000, 90 if k < 7 else 900 + 100 * c)
            for k in range(8)
        ]
    found = find_jumps(base, name_day(7))
    assert len(found) == 16
    assert found[0].sentence == "impressions has 900 rows, usually 9,000"
    assert [jump.name for jump in found[1:]] == [f"impressions.c{c:02d}" for c in reversed(range(15))]
    listed = JumpList(found[:MAX_JUMPS], len(found) - MAX_JUMPS, 7)
    assert listed.describe(2) == [found[0].sentence, found[1].sentence, "14 more measures jumped"]


def test_an_outlier_among_the_earlier_days_hides_nothing() -> None:
    days = [measure("impressions.slot", NULL, 20)._replace(ds=name_day(k)) for k in range(8)]
    days[3] = days[3]._replace(hits=6_000)
    now = measure("impressions.slot", NULL, 3_100)._replace(ds=name_day(8))
    assert [jump.sentence for jump in find_jumps([*days, now], name_day(8))] == [
        "null share of impressions.slot rose from 0.2% to 31%"
    ]
    assert find_jumps([*days, now._replace(hits=22)], name_day(8)) == []


def test_an_hour_that_the_clock_skips_is_not_missing() -> None:
    assert list_skipped_hours("Europe/Berlin", "2026-03-29") == [2]
    assert list_skipped_hours("Europe/Berlin", "2026-10-25") == []
    assert list_skipped_hours("America/New_York", "2026-03-08") == [2]
    assert list_skipped_hours("+01:00", "2026-03-29") == list_skipped_hours("UTC", "2026-03-29") == []
    days = [name_day(k) for k in range(6)]
    rows = [Measure(day, "impressions", "", ROWS, 2_400, 2_400) for day in days]
    hours = [
        Measure(day, "impressions", f"{hour:02d}", HOUR, 2_400, 0 if (day, hour) == (days[-1], 2) else 100)
        for day in days
        for hour in range(24)
    ]
    assert len(find_jumps([*rows, *hours], days[-1])) == 1
    assert find_jumps([*rows, *hours], days[-1], [2]) == []


def test_rows_left_out_by_where_appear_and_disappear() -> None:
    """A share of 0 is not written."""
    days = [name_day(k) for k in range(6)]
    rows = [Measure(day, "impressions", "", ROWS, 2_000, 2_000) for day in days]
    now = Measure(days[-1], "impressions", "", LEFT_OUT, 2_000, 800)
    assert ["left out" in jump.sentence for jump in find_jumps([*rows, now], days[-1])] == [True]
    before = [Measure(day, "impressions", "", LEFT_OUT, 2_000, 400) for day in days[:-1]]
    assert ["left out" in jump.sentence for jump in find_jumps([*rows, *before], days[-1])] == [True]
