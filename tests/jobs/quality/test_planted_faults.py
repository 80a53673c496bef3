"""Faults planted in logs, measured by `ingest` and `features`, and found by name.

All days are in one warehouse: eight healthy days, and one day per fault. Each fault is evaluated as if its day followed
the healthy days.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from star_ctr.jobs import features, ingest
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.quality.jump_list import MAX_JUMPS
from star_ctr.jobs.quality.jumps import find_jumps
from star_ctr.jobs.quality.measures import UNSEEN, Measure, read_measures
from star_ctr.jobs.quality.profile import measure_unseen
from tests.jobs.messy_logs import settings

ROWS, USERS, ITEMS, HEALTHY = 2_000, 1_000, 200, 8
Logs = tuple[pd.DataFrame, pd.DataFrame]
"""The impressions and the clicks of a day."""


def name_day(k: int) -> str:
    return str((pd.Timestamp("2026-03-01") + pd.Timedelta(days=k)).date())


def draw_day(rng: np.random.Generator, k: int, rate: float = 0.2) -> Logs:
    """Draw a healthy day: a quarter more or fewer rows, and clicks at most an hour later, on the same day."""
    n = int(ROWS * rng.uniform(0.85, 1.15))
    at = pd.Timestamp(name_day(k)) + pd.to_timedelta(np.sort(rng.integers(0, 86_000, n)), unit="s")
    shown = pd.DataFrame(
        {
            "view": [f"v{k}-{r}" for r in range(n)],
            "visitor": [f"p{u}" for u in rng.integers(0, USERS, n)],
            "sku": [f"s{i}" for i in rng.integers(0, ITEMS, n)],
            "surface": rng.choice(["home", "search", "mail", "tv"], n, p=[0.55, 0.3, 0.1, 0.05]),
            "at": at,
            "device": np.where(rng.random(n) < 0.01, None, rng.choice(["phone", "tablet", "desktop"], n)),
            "slot": rng.integers(1, 6, n).astype(str),
            "price": np.round(np.exp(rng.normal(2.5, 0.6, n)), 2),
        }
    )
    return shown, draw_clicks(rng, shown, rate)


def draw_clicks(rng: np.random.Generator, shown: pd.DataFrame, rate: float) -> pd.DataFrame:
    clicked = shown[rng.random(len(shown)) < rate]
    return pd.DataFrame(
        {"view": clicked["view"], "at": clicked["at"] + pd.to_timedelta(rng.integers(1, 400, len(clicked)), unit="s")}
    )


def change(column: str, share: float, value: object) -> Callable[[np.random.Generator, Logs], Logs]:
    """Return a fault that sets a column of a share of the impressions; `value` may be a function of the column."""

    def plant(rng: np.random.Generator, logs: Logs) -> Logs:
        shown, clicks = logs
        chosen = rng.random(len(shown)) < share
        new = value(shown[column]) if callable(value) else value
        return shown.assign(**{column: shown[column].mask(chosen, new)}), clicks

    return plant


def keep(
    select: Callable[[np.random.Generator, pd.DataFrame], pd.Series],
) -> Callable[[np.random.Generator, Logs], Logs]:
    """Return a fault that keeps only some impressions, with their clicks."""

    def plant(rng: np.random.Generator, logs: Logs) -> Logs:
        shown = logs[0][select(rng, logs[0])]
        return shown, logs[1][logs[1]["view"].isin(shown["view"])]

    return plant


def repeat(name: str, times: int) -> Callable[[np.random.Generator, Logs], Logs]:
    """Return a fault that shows each impression of a domain several times, each time with another id."""

    def plant(rng: np.random.Generator, logs: Logs) -> Logs:
        of_domain = logs[0][logs[0]["surface"] == name]
        more = [of_domain.assign(view=of_domain["view"] + f"-{t}") for t in range(1, times)]
        return pd.concat([logs[0], *more]), pd.concat([logs[1], *(draw_clicks(rng, m, 0.2) for m in more)])

    return plant


def edit_clicks(
    edit: Callable[[np.random.Generator, pd.DataFrame], pd.DataFrame],
) -> Callable[[np.random.Generator, Logs], Logs]:
    return lambda rng, logs: (logs[0], edit(rng, logs[1]))


def mangle(share: float) -> Callable[[np.random.Generator, pd.DataFrame], pd.DataFrame]:
    return lambda rng, c: c.assign(view=c["view"].mask(rng.random(len(c)) < share, c["view"].str.upper()))


def advance(share: float) -> Callable[[np.random.Generator, pd.DataFrame], pd.DataFrame]:
    """Return a fault that moves a share of the clicks back by an hour, within their day."""

    def edit(rng: np.random.Generator, clicks: pd.DataFrame) -> pd.DataFrame:
        earlier = clicks["at"] - pd.Timedelta(hours=1)
        moved = (rng.random(len(clicks)) < share) & (earlier.dt.date == clicks["at"].dt.date)
        return clicks.assign(at=clicks["at"].mask(moved, earlier))

    return edit


FAULTS: dict[str, tuple[Callable[[np.random.Generator, Logs], Logs], str]] = {
    "nulls": (change("device", 0.3, None), r"null share of impressions\.device rose from (0\.\d+|1|1\.\d)% to (29|30|31|32)%"),
    "domain disappears": (keep(lambda rng, f: f["surface"] != "mail"), r"domain mail has no rows, usually 2\d\d"),
    "domain triples": (repeat("search", 3), r"domain search has 1,\d{3} rows, usually \d{3}"),
    "clicks do not match": (edit_clicks(mangle(0.6)), r"only (3\d|4\d)% of clicks matched an impression, usually 100%"),
    "items do not match": (change("sku", 0.3, lambda c: "x" + c), r"only (6[789]|7\d)% of impressions matched items, usually 100%"),
    "users do not match": (change("visitor", 0.3, lambda c: "x" + c), r"only (6[789]|7\d)% of impressions matched users, usually 100%"),
    "click rate falls to a third": (edit_clicks(lambda rng, c: c[rng.random(len(c)) < 1 / 3]), r"^click rate fell from (19|20|21)% to \d(\.\d)?%"),
    "click rate triples": (lambda rng, logs: (logs[0], draw_clicks(rng, logs[0], 0.6)), r"^click rate rose from (19|20|21)% to (5|6)\d%"),
    "duplicates": (lambda rng, logs: (pd.concat([logs[0], logs[0].sample(frac=0.087, random_state=1)]), logs[1]), r"(7\.\d|8(\.\d)?)% of the rows of impressions are duplicates, usually 0%"),
    "unit changes": (change("price", 1.0, lambda c: c * 100), r"median of impressions\.price rose from 12 to 1,[123]00"),
    "number becomes constant": (change("price", 1.0, 9.99), r"impressions\.price has a single value \(9\.99\), usually 1,\d{3} distinct values"),
    "values are recoded": (change("device", 1.0, lambda c: c.str.upper()), r"100% of the values of impressions\.device did not occur on the earlier days, usually 0%"),
    "half of the hours": (keep(lambda rng, f: f["at"].dt.hour < 12), r"no rows of impressions between 12:00 and 24:00"),
    "rows fall to 40%": (keep(lambda rng, f: rng.random(len(f)) < 0.4), r"impressions has [789]\d\d rows, usually \d,\d{3}"),
    "domain is renamed": (change("surface", 1.0, lambda c: c.replace("search", "find")), r"domain find is new, with [567]\d\d rows"),
    "one bot": (change("visitor", 0.2, "p0"), r"one user \(p0\) has (18|19|20|21|22)% of the rows of impressions, usually 0\.\d+%"),
    "ids collapse": (change("visitor", 1.0, lambda c: "p" + c.str[-1]), r"impressions\.visitor has (9|10|11) distinct values, usually 8\d\d"),
    "clicks before impressions": (edit_clicks(advance(0.055)), r"[4567](\.\d)?% of clicks precede their impression, usually 0%"),
    "quarantine": (change("visitor", 0.05, None), r"[456](\.\d)?% of the rows of impressions are quarantined because of `visitor: missing`, usually 0%"),
    "unparsable": (change("slot", 0.08, "n/a"), r"([78](\.\d)?|9(\.\d)?)% of the values of impressions\.slot cannot be parsed \(such as `n/a`\), usually 0%"),
}  # fmt: skip


@pytest.fixture(scope="module")
def measures(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> dict[str, list[Measure]]:
    """The measures of all days, by day; the unseen values of a day are relative to the first five healthy days."""
    folder, rng = tmp_path_factory.mktemp("faults"), np.random.default_rng(7)
    write_logs(folder, rng)
    csv = {"format": "parquet"}
    conf = settings(
        folder,
        {"path": "views.parquet", **csv, "time": {"column": "at", "unit": "timestamp"}},
        logs={
            "clicks": {"path": "clicks.parquet", **csv, "impression": "view", "time": {"column": "at", "unit": "timestamp"}},
            "users": {"path": "users.parquet", **csv, "key": "visitor"},
            "items": {"path": "items.parquet", **csv, "key": "sku"},
        },
        label={"window_hours": 24},
        window={"days": HEALTHY + len(FAULTS)},
        history={},
        features=[
            {"name": "sku", "kind": "categorical", "column": "item_id"},
            {"name": "device", "kind": "categorical", "column": "impressions.device"},
            {"name": "tier", "kind": "categorical", "column": "users.tier"},
            {"name": "brand", "kind": "categorical", "column": "items.brand"},
            {"name": "slot", "kind": "numeric", "column": "impressions.slot"},
            {"name": "price", "kind": "numeric", "column": "impressions.price"},
        ],
        checks={"max_quarantined": 1.0, "max_unparsable": 1.0, "max_early_clicks": 1.0},
        spark={"shuffle_partitions": 2},
    )  # fmt: skip
    last = name_day(HEALTHY + len(FAULTS))
    ingest.run(conf, spark, last)
    features.run(conf, spark, last)
    days = [name_day(k) for k in range(HEALTHY + len(FAULTS) + 1)]
    rows = WarehouseTables(conf, spark).read("features")
    unseen = measure_unseen(conf, rows, days[HEALTHY - 3 :], days[: HEALTHY - 3])
    by_day: dict[str, list[Measure]] = {day: [] for day in days}
    for m in [*read_measures(conf, last, len(days)), *unseen]:
        if m.measure != UNSEEN or m in unseen:
            by_day[m.ds].append(m)
    return by_day


def write_logs(folder: Path, rng: np.random.Generator) -> None:
    """Write eight healthy days, one day per fault, and a last day that is healthy."""
    (folder / "logs").mkdir()
    faults = [lambda rng, logs: logs] * HEALTHY + [plant for plant, _ in FAULTS.values()] + [lambda rng, logs: logs]
    days = [plant(rng, draw_day(rng, k)) for k, plant in enumerate(faults)]
    for name, parts in zip(("views", "clicks"), zip(*days, strict=True), strict=True):
        file = folder / "logs" / f"{name}.parquet"
        pd.concat(parts).to_parquet(file, index=False, coerce_timestamps="us")
    users = pd.DataFrame({"visitor": [f"p{u}" for u in range(USERS)], "tier": [f"t{u % 3}" for u in range(USERS)]})
    users.to_parquet(folder / "logs" / "users.parquet", index=False)
    items = pd.DataFrame({"sku": [f"s{i}" for i in range(ITEMS)], "brand": [f"b{i % 9}" for i in range(ITEMS)]})
    items.to_parquet(folder / "logs" / "items.parquet", index=False)


def find_sentences(measures: dict[str, list[Measure]], k: int) -> list[str]:
    """Return the sentences about day `k`, as if it followed the healthy days."""
    ds = name_day(HEALTHY)
    earlier = [m for day in range(min(k, HEALTHY)) for m in measures[name_day(day)]]
    if k < HEALTHY:
        ds = name_day(k)
    return [jump.sentence for jump in find_jumps([*earlier, *(m._replace(ds=ds) for m in measures[name_day(k)])], ds)]


@pytest.mark.spark
def test_planted_faults_are_found_and_named(measures: dict[str, list[Measure]]) -> None:
    missed = {}
    for k, (name, (_, sentence)) in enumerate(FAULTS.items(), start=HEALTHY):
        found = find_sentences(measures, k)
        print(f"{name}: {'; '.join(found)}")
        if not any(re.search(sentence, text) for text in found[:MAX_JUMPS]):
            missed[name] = found
    assert len(FAULTS) == 20
    assert len(missed) <= 1, missed


@pytest.mark.spark
def test_healthy_days_of_the_same_logs_have_no_jumps(measures: dict[str, list[Measure]]) -> None:
    assert [find_sentences(measures, k) for k in (3, 4, 5, 6, 7, HEALTHY + len(FAULTS))] == [[]] * 6
