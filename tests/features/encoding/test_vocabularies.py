"""Vocabularies of many nights, compared with a loop in Python: admission, expiry, and reused ids."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from star_ctr.conf.contracts.dates import list_days
from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings
from star_ctr.features.encoding.vocabularies import count_expired, fit_vocabularies
from tests import small_logs
from tests.conftest import on_request

WINDOW, EXPIRE = 3, 5
DAYS = list_days("2026-01-01", "2026-02-04")
PREVIOUS = "embedding string, value string, id int, rows long, last_seen string"


def configure(folder: Path, *overrides: str) -> Settings:
    """Return settings in which values of `sku` expire and those of `visitor` do not."""
    conf = small_logs.write(folder, small_logs.frames(rows_a_day=1))
    base = load(conf, [f"window.days={WINDOW}", "split.vocabulary=grown", *overrides])
    kept = [f for f in base.features if f.name in ("visitor", "sku")]
    return base.model_copy(update={"features": kept})


def make_days(seed: int = 0) -> dict[str, list[tuple[str, str]]]:
    """Make the rows of each day: new users keep arriving; items come, go, and sometimes reappear after they expired."""
    rng = np.random.default_rng(seed)
    rows = {}
    for k, day in enumerate(DAYS):
        items = [f"i{2 * k + int(x)}" for x in rng.integers(0, 12, 25)]
        items += ["rare", "rare"] * (k % 9 == 0)
        users = [f"u{k}_{int(x)}" for x in rng.integers(0, 2, 25)] + ["u0_0", "u0_0"] * (k % 9 == 0)
        rows[day] = list(zip(users, items, strict=True))
    return rows


class Reference:
    """The vocabulary of one embedding table, extended night by night in plain Python."""

    def __init__(self, expire_days: int | None, min_count: int) -> None:
        self.expire_days, self.min_count = expire_days, min_count
        self.ids: dict[str, int] = {}
        self.last_seen: dict[str, str] = {}

    def extend(self, ds: str, days: dict[str, list[str]]) -> int:
        """Extend the vocabulary by the values of the training days; returns the number of expired values."""
        counts = Counter(value for values in days.values() for value in values)
        for day, values in days.items():
            for value in values:
                self.last_seen[value] = max(day, self.last_seen.get(value, day))
        expired = []
        if self.expire_days is not None:
            first = DAYS[max(0, DAYS.index(ds) - self.expire_days)]
            expired = [value for value in self.ids if self.last_seen[value] < first]
        for value in expired:
            del self.ids[value]
        used = set(self.ids.values())
        new = [(-n, value) for value, n in counts.items() if value not in self.ids and n >= self.min_count]
        for _, value in sorted(new):
            free = next(i for i in range(2, 10_000) if i not in used)
            self.ids[value] = free
            used.add(free)
        return len(expired)


@pytest.mark.spark
@pytest.mark.slow
@on_request
def test_thirty_nights_of_ids_that_come_and_go(tmp_path: Path, spark: SparkSession) -> None:
    conf = configure(tmp_path, f"model.embeddings={{sku: {{min_count: 2, expire_days: {EXPIRE}}}}}")
    rows = make_days()
    expected = {"user_id": Reference(None, 1), "item_id": Reference(EXPIRE, 2)}
    names = {"visitor": "user_id", "sku": "item_id"}
    previous: DataFrame | None = None
    highest: list[int] = []
    encoded: dict[str, dict[str, int]] = {}
    reused = 0
    for k, ds in enumerate(DAYS[1:], start=1):
        window = DAYS[max(0, k - WINDOW) : k]
        train = spark.createDataFrame(
            [(day, *row) for day in window for row in rows[day]], "ds string, user_id string, item_id string"
        )
        fitted = fit_vocabularies(conf, train, ds, previous).collect()
        now = spark.createDataFrame(fitted, PREVIOUS)
        lost = count_expired(conf, previous, now) if previous else {}
        for number, (name, column) in enumerate(names.items()):
            counts = {day: [row[number] for row in rows[day]] for day in window}
            expired = expected[column].extend(ds, counts)
            found = {r.value: r for r in fitted if r.embedding == name}
            assert {value: r.id for value, r in found.items()} == expected[column].ids, ds
            assert {v: r.last_seen for v, r in found.items()} == {v: expected[column].last_seen[v] for v in found}
            total = Counter(value for values in counts.values() for value in values)
            assert {value: r.rows for value, r in found.items()} == {value: total[value] for value in found}
            assert lost.get(name, 0) == expired
        ids = expected["item_id"].ids
        # The newest day is encoded once; the others of the window stay as they are. Their ids keep their values.
        encoded[window[-1]] = {item: ids[item] for _, item in rows[window[-1]] if item in ids}
        for day in window:
            assert encoded[day].items() <= ids.items(), f"night {ds} reads an id of {day} that has another value"
        reused += sum(
            1
            for value, i in ids.items()
            for old in encoded.values()
            if i in old.values() and old.get(value) != i and value not in old
        )
        highest.append(max(ids.values()))
        previous = now
    assert reused > 0
    assert max(highest[15:]) <= max(highest[8:15]) + 2, "the number of rows of the embedding levels off"
    assert max(expected["user_id"].ids.values()) == len(expected["user_id"].ids) + 1, "no user has expired"
    assert len(expected["user_id"].ids) > 50


@pytest.mark.spark
def test_a_free_id_is_used_again_and_the_others_follow(tmp_path: Path, spark: SparkSession) -> None:
    conf = configure(tmp_path, "model.embeddings={sku: {expire_days: 3}}")
    known = [(value, i, day) for value, i, day in (("b", 3, DAYS[0]), ("d", 5, DAYS[6]), ("e", 8, DAYS[6]))]
    previous = spark.createDataFrame([("sku", v, i, 1, day) for v, i, day in known], PREVIOUS)
    items = ["z", "z", "y", "x", "w", "v", "d"]
    train = spark.createDataFrame([(DAYS[8], "u", item) for item in items], "ds string, user_id string, item_id string")
    fitted = fit_vocabularies(conf, train, DAYS[9], previous)
    assert {r.value: r.id for r in fitted.collect() if r.embedding == "sku"} == {
        "d": 5, "e": 8, "z": 2, "v": 3, "w": 4, "x": 6, "y": 7,
    }  # fmt: skip
    assert count_expired(conf, previous, fitted) == {"sku": 1}
