"""Which training days a night encodes, and which it takes from earlier nights. Needs no Spark."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.contracts.run_id import hash_split_settings
from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io import training_days
from star_ctr.jobs.io.day_records import DayRecord, DayRecords
from star_ctr.jobs.io.split_inputs import EarlierSplit
from star_ctr.jobs.io.training_days import TrainingDays, plan_training_days
from star_ctr.jobs.io.warehouse import WarehouseTables

DAYS = ["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04"]
LAYOUT = Layout(ds="", domains=[], embeddings={}, categorical=[], buckets=[], numeric=[], sequences=[])


class Nights:
    """Nights whose splits are only planned and recorded."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.version = 0
        self.settings = self.load()
        self.restate("a", DAYS)
        for table in ("features", "labels"):
            write_deltalake(str(folder / table), pa.table({"ds": DAYS}))
        monkeypatch.setattr(training_days, "_list_stored_days", lambda _: set(DAYS))

    def load(self, *overrides: str) -> Settings:
        return load("demo", [f"paths.warehouse={self.folder}", "split.vocabulary=grown", "window.days=2", *overrides])

    def restate(self, rows: str, days: list[str]) -> None:
        """Change the features and labels of some days."""
        records = DayRecords(self.settings)
        records.write("features", {day: DayRecord(rows, {}) for day in days})
        records.write("labels", {day: DayRecord(rows, {"rows": rows}) for day in days})

    def run(self, ds: str, days: list[str], previous: EarlierSplit | None, *overrides: str) -> TrainingDays:
        settings = self.load(*overrides)
        store = WarehouseTables(settings, cast(Any, None))
        plan = plan_training_days(settings, store, ds, days, LAYOUT, previous)
        DayRecords(settings).write("split", plan.encoded)
        return plan

    def split(self, ds: str, plan: TrainingDays | None, *overrides: str) -> EarlierSplit:
        """Return the split of a night; without a plan, one with a fitted vocabulary."""
        self.version += 1
        settings = hash_split_settings(self.load(*overrides))
        lineage = plan.lineage if plan else []
        return EarlierSplit(ds, self.version, LAYOUT, cast(Any, None), settings, lineage)


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    return Nights(tmp_path, monkeypatch)


def test_a_night_encodes_its_newest_training_day(nights: Nights) -> None:
    first = nights.run(DAYS[2], DAYS[:2], None)
    assert list(first.encoded) == DAYS[:2]
    second = nights.run(DAYS[3], DAYS[1:3], nights.split(DAYS[2], first))
    assert list(second.encoded) == [DAYS[2]]
    assert second.lineage[1:] == first.lineage
    # A night that runs again, and a restated day.
    assert not nights.run(DAYS[3], DAYS[1:3], nights.split(DAYS[2], first)).encoded
    nights.restate("b", [DAYS[1]])
    assert list(nights.run(DAYS[3], DAYS[1:3], nights.split(DAYS[2], first)).encoded) == [DAYS[1], DAYS[2]]


def test_days_are_not_taken_over_from_vocabularies_of_other_settings(nights: Nights) -> None:
    """A night with other settings may have used ids of expired values again."""
    first = nights.run(DAYS[2], DAYS[:2], None)
    other = nights.run(DAYS[3], [DAYS[2]], nights.split(DAYS[2], first), "window.days=1")
    back = nights.run("2026-01-05", DAYS[2:], nights.split(DAYS[3], other, "window.days=1"))
    assert list(back.encoded) == DAYS[2:]
    assert len(back.lineage) == 1


def test_days_are_not_taken_over_from_a_fitted_vocabulary(nights: Nights) -> None:
    """A night that extends other fitted vocabularies than before has other ids."""
    first = nights.run(DAYS[2], DAYS[:2], nights.split(DAYS[1], None, "split.vocabulary=fitted"))
    again = nights.run(DAYS[2], DAYS[:2], nights.split(DAYS[1], None, "split.vocabulary=fitted"))
    assert list(again.encoded) == DAYS[:2]
    assert first.lineage != again.lineage
