"""Which training days a night encodes, and which it takes from earlier nights. Needs no Spark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, write_deltalake

from star_ctr.conf.contracts.encoded_row import TEST, TRAIN_DAY, Layout, NumericField, NumericSource
from star_ctr.conf.contracts.run_id import hash_split_settings
from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io import training_days
from star_ctr.jobs.io.day_records import DayRecord, DayRecords
from star_ctr.jobs.io.split_commits import read_lineage
from star_ctr.jobs.io.split_inputs import EarlierSplit
from star_ctr.jobs.io.training_days import TrainingDays, find_encoded_days, plan_training_days
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


class Splits:
    """A split whose nights each encode the day before, with the vocabularies `v<night>`, in commits without Spark."""

    def __init__(self, folder: Path) -> None:
        self.settings = load("demo", [f"paths.warehouse={folder}", "split.vocabulary=grown", "window.days=1"])
        self.table = str(folder / "split")

    def write(self, night: str, day: str, lineage: list[str], encode: bool = True, layout: Layout = LAYOUT) -> int:
        """Write a night; returns the version of its commit."""
        parts = [(night, TEST), *([(day, TRAIN_DAY)] if encode else [])]
        rows = pa.table({"ds": [d for d, _ in parts], "part": [p for _, p in parts], "x": [night] * len(parts)})
        where = " OR ".join(f"(ds = '{d}' AND part = '{p}')" for d, p in parts)
        text = {"userMetadata": json.dumps({"ds": night, "days": [day], "lineage": lineage})}
        properties = CommitProperties(custom_metadata=text)
        exists = Path(self.table).exists()
        write_deltalake(
            self.table, rows, mode="overwrite", predicate=where if exists else None, partition_by=["ds", "part"],
            commit_properties=properties,
        )  # fmt: skip
        if encode:
            outputs = {"vocabulary": lineage[0], "encoding": layout.hash_encoding()}
            DayRecords(self.settings).write("split", {day: DayRecord("", outputs)})
        return int(DeltaTable(self.table).version())

    def find(self, version: int, days: list[str], layout: Layout = LAYOUT) -> list[str]:
        return find_encoded_days(self.settings, self.table, version, layout, days)


def test_days_before_the_window_are_found_through_the_commits_of_earlier_nights(tmp_path: Path) -> None:
    splits, nights = Splits(tmp_path), [*DAYS[1:], "2026-01-05"]
    # As with a window of one day: each commit names its own vocabularies and the ones before.
    versions = [
        splits.write(night, day, [f"v{night}", f"v{day}"] if k else [f"v{night}"])
        for k, (day, night) in enumerate(zip(DAYS, nights, strict=True))
    ]
    assert read_lineage(splits.table, versions[-1]) == [f"v{night}" for night in reversed(nights)]
    assert splits.find(versions[-1], ["2025-12-31", *DAYS]) == DAYS
    assert splits.find(versions[-1], DAYS[2:]) == DAYS[2:]
    assert splits.find(versions[1], DAYS) == DAYS[:2], "later nights have encoded the other days"


def test_days_with_other_ids_are_left_out(tmp_path: Path) -> None:
    splits = Splits(tmp_path)
    splits.write(DAYS[1], DAYS[0], ["a"])
    splits.write(DAYS[2], DAYS[1], ["b", "a"])
    # Other settings start a new lineage.
    other = splits.write(DAYS[3], DAYS[2], ["x"])
    assert splits.find(other, DAYS) == [DAYS[2]]
    back = splits.write("2026-01-05", DAYS[3], ["y", "x"])
    assert splits.find(back, DAYS) == DAYS[2:]


def test_days_with_other_scales_are_left_out(tmp_path: Path) -> None:
    """A number that was constant on the first days gets a scale later, without a change of the settings."""
    splits = Splits(tmp_path)
    number = NumericField(name="x", source=NumericSource(column="x"), std=50.0)
    later = LAYOUT.model_copy(update={"numeric": [number]})
    splits.write(DAYS[1], DAYS[0], ["a"])
    splits.write(DAYS[2], DAYS[1], ["b", "a"], layout=later)
    night = splits.write(DAYS[3], DAYS[2], ["c", "b", "a"], layout=later)
    assert splits.find(night, DAYS, later) == DAYS[1:3]


def test_days_that_were_written_again_are_left_out(tmp_path: Path) -> None:
    splits = Splits(tmp_path)
    splits.write(DAYS[1], DAYS[0], ["a"])
    night = splits.write(DAYS[2], DAYS[1], ["b", "a"])
    again = splits.write(DAYS[1], DAYS[0], ["c"])  # for example, after the logs were delivered again
    assert splits.find(night, DAYS) == [DAYS[1]]
    assert splits.find(again, DAYS) == [DAYS[0]]
    # The version of the night has the rows of other vocabularies, although the newest version has rows of its own.
    splits.write(DAYS[1], DAYS[0], ["a"])
    assert splits.find(night, DAYS) == [DAYS[1]]
    DayRecords(splits.settings).remove("split", [DAYS[1]])  # killed while it was written
    assert splits.find(night, DAYS) == []
