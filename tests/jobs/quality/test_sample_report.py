"""What `check` says about a sample of a log: problems that would stop a night, and what changed on the newest day."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from star_ctr.conf.load import load
from star_ctr.conf.settings.label import OutcomeEvents
from star_ctr.conf.settings.root import Settings
from star_ctr.features.cleaning.clean_log import LEFT_OUT_BY_WHERE
from star_ctr.features.cleaning.duplicates import DUPLICATE
from star_ctr.jobs.io.log_files import LogFile
from star_ctr.jobs.quality import sample as sampling
from star_ctr.jobs.quality.sample import NUMBER_PREFIX, Sample, choose_files
from star_ctr.jobs.quality.sample_days import describe_other_days
from star_ctr.jobs.quality.sample_matches import compute_click_rates, describe_matches
from star_ctr.jobs.quality.sample_report import LogReport, describe_sample
from tests.jobs.messy_logs import DAYS, settings

HOUR = 3_600_000_000
N = 60
"""Rows per day: at least 50, so that days are compared."""


def add_hours(day: str, hours: int) -> int:
    """Return the microseconds since 1970 of an hour of a day in UTC."""
    return int(dt.datetime.fromisoformat(f"{day}T00:00+00:00").timestamp()) * 1_000_000 + hours * HOUR


def make_rows(**changes: list[Any]) -> dict[str, list[Any]]:
    """Create clean rows of three days."""
    n = N * len(DAYS)
    rows: dict[str, list[Any]] = {
        "impression_id": [f"v{k}" for k in range(n)],
        "user_id": [f"p{k % 7}" for k in range(n)],
        "item_id": [f"s{k % 5}" for k in range(n)],
        "domain": ["search" if k % 3 else "home" for k in range(n)],
        "ts": [add_hours(day, k % 24) for day in DAYS for k in range(N)],
        "label": [float(k % 4 == 0) for k in range(n)],
        "slot": [str(k % 5) for k in range(n)],
        NUMBER_PREFIX + "slot": [float(k % 5) for k in range(n)],
        "ds": [day for day in DAYS for _ in range(N)],
        "reason": [None] * n,
        "raw": [None] * n,
    }
    return rows | changes


def make_sample(is_whole: bool = True, types: dict[str, str] | None = None, **changes: list[Any]) -> Sample:
    rows = make_rows(**changes)
    strings = {"reason": pa.string(), "raw": pa.string()}
    table = pa.table({name: pa.array(values, strings.get(name)) for name, values in rows.items()})
    stored = {"view": "impression_id", "visitor": "user_id", "sku": "item_id", "surface": "domain", "at": "ts"}
    stored |= {"clk": "label", "slot": "slot"}
    return Sample(table, dict.fromkeys(stored, "string") | (types or {}), stored, 3, is_whole)


def describe(conf: Settings, sample: Sample, has_all_files: bool = True) -> LogReport:
    report = LogReport("impressions", "views/*.csv")
    describe_sample(conf, "impressions", sample, report, has_all_files)
    return report


@pytest.fixture
def conf(tmp_path: Path) -> Settings:
    return settings(tmp_path)


def test_a_clean_log_has_no_problems_and_no_warnings(conf: Settings) -> None:
    report = describe(conf, make_sample())
    assert (report.problems, report.warnings) == ([], [])
    assert (report.rows, report.days) == (N * len(DAYS), list(DAYS))
    by_name = {c["column"]: c for c in report.columns}
    assert by_name["visitor"]["distinct"] == 7
    assert by_name["slot"] == {
        "column": "slot", "type": "string", "use": "feature slot", "nulls": 0.0, "distinct": 5,
        "examples": ["0", "1", "2"],
    }  # fmt: skip
    assert by_name["at"]["examples"][1] == "2026-03-01 01:00:00 UTC"
    assert [d["domain"] for d in report.domains] == ["search", "home"]
    assert report.domains[0]["click rate"] == pytest.approx(0.25)


def test_quarantined_rows_are_problems_above_the_limit_and_warnings_below(conf: Settings) -> None:
    n = N * len(DAYS)
    for count, where in ((3, "warnings"), (40, "problems")):
        reasons = ["at: no usable time"] * count + [DUPLICATE] * 50 + [None] * (n - count - 50)
        raw = [json.dumps({"at": "10:12"})] * count + [None] * (n - count)
        report = describe(conf, make_sample(reason=reasons, raw=raw))
        [line] = [x for x in getattr(report, where) if "no usable time" in x]
        assert line == (
            f"{count} of {n} rows: at: no usable time (values: `10:12`); set unit, format or zone of "
            "logs.impressions.time"
        )
        assert f"50 of {n} rows: {DUPLICATE}" in report.warnings
        assert bool(report.problems) is (where == "problems")


def test_rows_left_out_are_counted_and_not_described(conf: Settings) -> None:
    n = N * len(DAYS)
    bots = [k % 3 == 0 for k in range(n)]
    report = describe(
        conf,
        make_sample(
            reason=[LEFT_OUT_BY_WHERE if bot else None for bot in bots],
            slot=[None if bot else "1" for bot in bots],
            domain=["bots" if bot else "home" for bot in bots],
        ),
    )
    assert report.notes == [f"{n // 3} of {n} rows are {LEFT_OUT_BY_WHERE}"]
    assert (report.rows, report.problems, report.warnings) == (n - n // 3, [], [])
    assert {c["column"]: c["nulls"] for c in report.columns}["slot"] == 0
    assert [d["domain"] for d in report.domains] == ["home"]


@pytest.mark.parametrize(("items", "problem"), [("s1|s2", "`|`, such as `s1|s2`"), ("s1", None)])
def test_lists_with_another_separator(tmp_path: Path, items: str, problem: str | None) -> None:
    conf = settings(tmp_path, {"explode": {"items": "sku", "separator": ","}})
    report = describe(conf, make_sample(item_id=[items] * N * len(DAYS)))
    assert [problem in p and "explode.separator: 100%" in p for p in report.problems if problem] == [True] * bool(
        problem
    )
    assert bool(report.problems) is bool(problem)


def test_days_are_not_compared_if_files_cannot_be_read(conf: Settings) -> None:
    sample = make_sample(domain=["home" if k < 120 else "new" for k in range(180)])
    assert describe(conf, sample).warnings
    assert not describe(conf, sample, has_all_files=False).warnings


def test_values_that_are_not_numbers(conf: Settings) -> None:
    n = N * len(DAYS)
    sample = make_sample(types={"slot": "date"}, slot=["1990-01-01"] * n, **{NUMBER_PREFIX + "slot": [None] * n})
    assert describe(conf, sample).problems == [
        "features.slot: 100% of the values of `slot` (type date) are not numbers, such as `1990-01-01`; set "
        "logs.impressions.decimal or logs.impressions.null_values, or make the feature categorical"
    ]


def test_a_few_values_that_are_not_numbers_are_a_warning(conf: Settings) -> None:
    n = N * len(DAYS)
    sample = make_sample(slot=["x"] * 3 + ["1"] * (n - 3), **{NUMBER_PREFIX + "slot": [None] * 3 + [1.0] * (n - 3)})
    report = describe(conf, sample)
    assert report.problems == []
    assert report.warnings == [
        "features.slot: 3 of 180 values of `slot` are not numbers (example: `x`), so they count as missing"
    ]


def test_weights_are_described_and_unequal_ones_are_a_warning(tmp_path: Path) -> None:
    conf, n, name = settings(tmp_path, {"weight": "w"}), N * len(DAYS), NUMBER_PREFIX + "w"
    weights = [0.0] * 45 + [1.0, 3.0] * ((n - 45) // 2) + [2.0]
    report = describe(conf, make_sample(**{name: weights}))
    assert report.notes == ["weight (`w`): mean 1.5, maximum 3; 25.0% of the rows have weight 0 and are not trained on"]
    assert (report.problems, report.warnings, report.training_share) == ([], [], 0.75)
    weights[-1] = sum(weights[:-1])  # half of the total weight
    [warning] = describe(conf, make_sample(**{name: weights})).warnings
    assert warning.startswith("the weights (`w`) are very unequal: 135 rows count as much as 4 rows of equal weight")
    assert "the largest weight is 50.0% of the total; limit the weights" in warning
    [problem] = describe(conf, make_sample(**{name: [0.0] * n})).problems
    assert problem == "logs.impressions.weight: all values of `w` are 0, so no row is trained on"


def test_lists_and_labels_of_one_class(conf: Settings) -> None:
    n = N * len(DAYS)
    report = describe(conf, make_sample(types={"slot": "array<int>"}, label=[0.0] * n))
    assert report.problems == [
        "features.slot: `slot` holds lists; choose a column of single values",
        "label: all rows have the label 0 (not clicked); check label.column (`clk`), label.positive and label.negative",
    ]


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        (
            {"slot": [None if k >= 150 else "1" for k in range(180)]},
            "50% of the values of `slot` are missing; on earlier days 0%",
        ),
        (
            {"domain": ["home" if k < 120 or k % 6 else "new" for k in range(180)]},
            None,  # ten rows of a new domain are not worth a warning
        ),
        ({"domain": ["home" if k < 120 else "new" for k in range(180)]}, "60 rows of the new domain `new`"),
        (
            {"domain": ["home" if k < 120 else "new" for k in range(180)]},
            "0 rows of domain `home`; earlier days have 60 on average",
        ),
    ],
)
def test_changes_on_the_newest_day(conf: Settings, changes: dict[str, list[Any]], warning: str | None) -> None:
    report = describe(conf, make_sample(**changes))
    if warning is None:
        assert report.warnings == []
    else:
        assert any(line.startswith(DAYS[-1]) and warning in line for line in report.warnings)
    assert describe(conf, make_sample(is_whole=False, **changes)).warnings == []


def test_times_on_other_days_than_their_file() -> None:
    """A wrong zone shifts the times by hours."""
    conf, days = load("demo"), ["2026-03-01", "2026-03-02"]
    noon = [int(dt.datetime.fromisoformat(f"{day}T12:00+00:00").timestamp() * 1e6) for day in days]
    for hours, share in ((0, None), (9, None), (13, "100%")):
        times = [t + hours * 3_600_000_000 for t in noon for _ in range(10)]
        rows = pa.table({"ds": [day for day in days for _ in range(10)], "ts": times})
        found = list(describe_other_days(conf, "impressions", rows))
        assert [text.partition(" ")[0] for text in found] == ([share] if share else [])
        assert all("for example 2026-03-02 instead of 2026-03-01" in text for text in found)


def test_hours_without_rows(conf: Settings) -> None:
    """An hour counts only if each day before has many rows in it."""
    hours = [k % 2 for _ in DAYS[:-1] for k in range(N)] + [0] * N
    report = describe(conf, make_sample(ts=[add_hours(DAYS[k // N], hour) for k, hour in enumerate(hours)]))
    assert report.warnings == [f"{DAYS[-1]}: hours (UTC) without rows, but with rows on earlier days: 1"]


def test_matches(conf: Settings) -> None:
    impressions = make_sample()
    click_ids = [f"v{k}" for k in range(40)]
    times = [add_hours(DAYS[0], k % 24) + HOUR // 2 for k in range(40)]
    cases = [
        (click_ids, times, ""),
        ([c.upper() for c in click_ids], times, "none of the 40 clicks has an impression"),
        (click_ids, [t - HOUR for t in times], "40 of 40 clicks come before their impression"),
    ]
    for ids, at, problem in cases:
        rows = pa.table({"impression_id": ids, "ts": at, "ds": [DAYS[0]] * 40, "reason": pa.nulls(40, pa.string())})
        clicks = Sample(rows, {}, {}, 1, True)
        [(name, problems, _)] = describe_matches(conf, {"impressions": impressions, "clicks": clicks})
        assert name == "clicks"
        assert [p for p in problems if problem and problem in p] == problems
        assert bool(problems) is bool(problem)
        part = clicks._replace(is_whole=False)
        assert not list(describe_matches(conf, {"impressions": impressions, "clicks": part}))


def test_click_rates_of_a_click_log(conf: Settings) -> None:
    clicked = load("demo")
    impressions = make_sample()
    domains = impressions.rows["domain"].to_pylist()
    ids = [f"v{k}" for k in range(0, 2 * N, 5)]
    days = [DAYS[k // N] for k in range(0, 2 * N, 5)]
    rows = pa.table(
        {"impression_id": ids + ids[:4], "ds": days + days[:4], "reason": pa.nulls(len(ids) + 4, pa.string())}
    )
    clicks = Sample(rows, {}, {}, 1, True)
    expected = {
        name: np.mean([k % 5 == 0 for k, domain in enumerate(domains[: 2 * N]) if domain == name])
        for name in ("search", "home")
    }
    assert compute_click_rates(clicked, {"impressions": impressions, "clicks": clicks}) == pytest.approx(expected)
    assert compute_click_rates(clicked, {"impressions": impressions, "clicks": clicks._replace(is_whole=False)}) == {}
    assert compute_click_rates(clicked, {"impressions": impressions}) == {}
    assert compute_click_rates(conf, {"impressions": impressions, "clicks": clicks}) == {}, "the label is a column"


def test_matches_of_events(tmp_path: Path) -> None:
    """Events of the first days are not matched, because their impressions may lie before the sample."""
    log = {
        "path": "events/{ds}.csv",
        "impression": "view",
        "event": "what",
        "time": {"column": "at", "unit": "timestamp"},
    }
    given = {"column": "clk", "also": {"order": {"window_hours": 24}}}
    conf = settings(tmp_path, logs={"events": log}, window={"days": 3}, label=given)
    label, impressions = conf.label, make_sample()
    ids = [f"v{k}" for k in range(N * len(DAYS))]
    days = [DAYS[k // N] for k in range(len(ids))]
    shown = dict(zip(impressions.rows["impression_id"].to_pylist(), impressions.rows["ts"].to_pylist(), strict=True))
    times = [shown[name] + HOUR // 2 for name in ids]
    unknown = [f"x{name}" if day > DAYS[0] else name for name, day in zip(ids, days, strict=True)]
    old = [name if day > DAYS[0] else f"x{name}" for name, day in zip(ids, days, strict=True)]
    none = [f"x{name}" for name in ids]
    early = [t - HOUR for t in times]
    unmatched = "label.also.order: none of the 180 events `order` matches an impression"
    cases = [
        (24, "order", ids, times, [], []),
        (24, "order", old, times, [], []),
        (
            24,
            "buy",
            ids,
            times,
            [],
            ["label.also.order: no event `order` on the sampled days of logs.events (found: buy)"],
        ),
        (24, "order", unknown, times, [], ["label.also.order: only 0% of the "]),
        (24, "order", none, times, [unmatched], []),
        (24, "order", ids, early, [], [" events `order` precede their impression"]),
        (168, "order", unknown, times, [], []),
        (168, "order", none, times, [], [unmatched]),
        (168, "order", ids, early, [], [" events `order` precede their impression"]),
    ]
    left_out = [LEFT_OUT_BY_WHERE if k % 3 else None for k in range(len(ids))]
    for hours, event, names, at, problems, warnings in cases:
        conf = conf.model_copy(
            update={"label": label.model_copy(update={"also": {"order": OutcomeEvents(window_hours=hours)}})}
        )
        impressions = make_sample(reason=left_out)
        columns = {"event": [event] * len(ids), "impression_id": names, "ts": at, "ds": days}
        rows = pa.table({**columns, "reason": pa.nulls(len(ids), pa.string())})
        events = Sample(rows, {}, {}, 1, True)
        [(name, *found)] = describe_matches(conf, {"impressions": impressions, "events": events})
        assert name == "events"
        for texts, expected in zip(found, (problems, warnings), strict=True):
            assert len(texts) == len(expected)
            assert all(part in text for text, part in zip(texts, expected, strict=True))
        part = events._replace(is_whole=False)
        assert not list(describe_matches(conf, {"impressions": impressions, "events": part}))


@pytest.mark.parametrize(("keys", "is_low"), [(["s0", "s1", "s2", "s3"], False), (["0001", "0002"], True)])
def test_attributes_without_match_are_a_warning(conf: Settings, keys: list[str], is_low: bool) -> None:
    rows = pa.table({"key": keys, "ds": ["all"] * len(keys), "reason": pa.nulls(len(keys), pa.string())})
    found = list(describe_matches(conf, {"impressions": make_sample(), "items": Sample(rows, {}, {}, 1, True)}))
    [(name, problems, warnings)] = found
    assert (name, problems) == ("items", [])
    assert bool(warnings) is is_low
    assert not is_low or "only 0% of the impressions have a row in logs.items" in warnings[0]


def test_the_newest_whole_days_are_chosen(conf: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_MAX_BYTES", 100)
    log = conf.logs.impressions

    def file(day: str | None, size: int, name: str) -> LogFile:
        return LogFile("", day, None, f"{name}.csv", size, "", name, None)

    files = [file(f"2026-03-0{d}", 40, f"{d}-{k}") for d in range(1, 6) for k in range(2)]
    chosen, is_whole = choose_files(log, files, None)
    assert ([f.day for f in chosen], is_whole) == (["2026-03-05"] * 2, True)
    chosen, is_whole = choose_files(log, files, "2026-03-03")
    assert ([f.day for f in chosen], is_whole) == (["2026-03-03"] * 2, True)
    large = [file("2026-03-05", 90, "a"), file("2026-03-05", 90, "b")]
    assert [f.path for f in choose_files(log, large, None)[0]] == ["a.csv"]
    assert choose_files(log, large, None)[1] is False
    assert len(choose_files(log, [file(None, 10, str(k)) for k in range(9)], None)[0]) == 9
    zipped = log.model_copy(update={"format": "parquet"})
    assert choose_files(zipped, [file(None, 10, str(k)) for k in range(9)], None)[1] is False
